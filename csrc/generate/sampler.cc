#include "generate/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>

#include "common/exact_math.h"
#include "generate/selection.h"

namespace pythia {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// How far below the best score keep_top_p looks, one try after the other.
constexpr float kTopPDepths[] = {2, 4, 6, 8, 10, 13, 16, -kLowest};

// Draws without a list of the tokens that are left end with so many points, of which at worst one in nine falls on a token.
constexpr int kMaxPoints = 64;

// The k-th largest maximum is a good bound of the k-th largest score where there are this many times as many maxima.
constexpr int64_t kMaximaPerRank = 4;

bool filters_by_rank(const SamplingOptions& options, int64_t vocab_size) {
  return options.top_k > 0 && options.top_k < vocab_size;
}

// Whether one token cannot be known to be kept before it is known which ones are.
bool needs_list(const SamplingOptions& options, int64_t vocab_size) {
  const bool is_typical_of_left = options.typical_p < 1.0 && (options.top_p < 1.0 || options.min_p > 0.0);
  return filters_by_rank(options, vocab_size) || is_typical_of_left;
}

// Adds biases and penalties to logits, and takes them back when it goes.
class Penalties {
 public:
  // `replaced` is scratch.
  Penalties(std::span<float> logits, const SamplingOptions& options, const TokenHistory* history,
            std::vector<std::pair<int32_t, float>>& replaced)
      : logits_(logits), replaced_(replaced) {
    replaced_.clear();
    for (const auto& [id, bias] : options.logit_bias)
      if (static_cast<size_t>(id) < logits.size()) replace(id) += bias;  // a draft may have fewer than the model
    if (options.has_penalties()) penalize(options, *history);
    if (options.no_repeat_ngram_size > 0)
      history->for_repeats(options.no_repeat_ngram_size, [this](int32_t id) { replace(id) = kLowest; });
  }
  ~Penalties() {
    while (!replaced_.empty()) {
      const auto [id, logit] = replaced_.back();
      logits_[static_cast<size_t>(id)] = logit;
      replaced_.pop_back();
    }
  }
  Penalties(const Penalties&) = delete;
  Penalties& operator=(const Penalties&) = delete;

 private:
  void penalize(const SamplingOptions& options, const TokenHistory& history) {
    for (const auto& [id, times_generated] : history.entries()) {
      float& score = replace(id);
      score = score < 0 ? score * options.repetition_penalty : score / options.repetition_penalty;
      if (times_generated == 0) continue;
      score -= static_cast<float>(times_generated) * options.frequency_penalty;
      score -= options.presence_penalty;
    }
  }
  float& replace(int32_t id) {
    float& logit = logits_[static_cast<size_t>(id)];
    replaced_.emplace_back(id, logit);
    return logit;
  }
  std::span<float> logits_;
  std::vector<std::pair<int32_t, float>>& replaced_;
};

}  // namespace

void throw_no_token() {
  throw std::invalid_argument(
      "[generate] the model gave no usable logits (all are NaN or -infinity), expected numbers: check the checkpoint's "
      "weights, and logit_bias and no_repeat_ngram_size if they ban tokens");
}

TokenHistory::TokenHistory(std::span<const int32_t> prompt) : tokens_(prompt.begin(), prompt.end()) {
  for (const int32_t id : prompt) entry(id);
}

void TokenHistory::add_generated(int32_t id) {
  tokens_.push_back(id);
  ++entry(id).times_generated;
}

template <class Body>
void TokenHistory::for_repeats(int64_t n, Body body) const {
  const auto known = n - 1;
  if (std::ssize(tokens_) < known) return;
  const auto last = tokens_.end() - known;
  for (auto begin = tokens_.begin(); begin != last; ++begin)
    if (std::equal(last, tokens_.end(), begin)) body(*(begin + known));
}

TokenHistory::Entry& TokenHistory::entry(int32_t id) {
  const auto [it, is_new] = index_.try_emplace(id, entries_.size());
  if (is_new) entries_.push_back({id, 0});
  return entries_[it->second];
}

bool Sampler::needs_groups(const SamplingOptions& options, int64_t vocab_size) {
  if (!needs_list(options, vocab_size)) return options.do_sample;
  const int64_t blocks = ScoreMaxima::num_blocks(vocab_size), ranks = kMaximaPerRank * std::min(options.top_k, vocab_size);
  return options.do_sample && ranks > blocks && ranks <= blocks * kScoreGroups;
}

// Makes the maxima of the blocks whose logits have been replaced.
void Sampler::update_maxima(std::span<const float> logits, const ScoreMaxima& maxima) {
  const auto size = static_cast<int64_t>(logits.size());
  is_touched_.assign(static_cast<size_t>(ScoreMaxima::num_blocks(size)), 0);
  for (const auto& [id, logit] : replaced_) is_touched_[static_cast<size_t>(id / kScoreBlock)] = 1;
  for (int64_t first = 0; first < size; first += kScoreBlock)
    if (is_touched_[static_cast<size_t>(first / kScoreBlock)])
      maxima.update(kernels_, logits.data() + first, first, std::min(kScoreBlock, size - first));
}

int32_t Sampler::sample(std::span<float> logits, const ScoreMaxima& maxima, const SamplingOptions& options,
                        const TokenHistory* history, const DrawKey& draw, const ParallelFor* parallel_for) {
  const Penalties penalties(logits, options, history, replaced_);
  const bool has_maxima = maxima.of_blocks && (maxima.of_groups || !needs_groups(options, static_cast<int64_t>(logits.size())));
  if (has_maxima && !replaced_.empty()) update_maxima(logits, maxima);
  row_.reset(logits, has_maxima ? maxima : ScoreMaxima(), options.temperature, parallel_for);
  if (row_.largest() == kLowest) return kNoToken;
  if (!options.do_sample) return row_.argmax();
  UniformSequence uniforms(draw);
  if (row_.has_softmax() && !needs_list(options, static_cast<int64_t>(logits.size())))
    if (const auto id = draw_from_row(options, uniforms)) return *id;
  apply_filters(options);
  return draw_from_candidates(uniforms);
}

const Candidates& Sampler::filter(std::span<float> logits, const SamplingOptions& options, const TokenHistory* history) {
  const Penalties penalties(logits, options, history, replaced_);
  row_.reset(logits, {}, options.temperature, nullptr);
  apply_filters(options);
  return candidates_;
}

// A draw without a list of the tokens that are left, by the rule of docs/numerics.md; none if that takes too long. What top_p
// or typical_p keeps has at least that part of the mass, so one keeps a token soon; to know whether it does is much less work
// than to find its border.
std::optional<int32_t> Sampler::draw_from_row(const SamplingOptions& options, UniformSequence& uniforms) {
  const float bound = options.min_p > 0.0 ? row_.bound_below(lowest_min_p_quotient(options.min_p)) : kLowest;
  const int64_t room = row_.make_room(bound);
  const bool typical = options.typical_p < 1.0;
  float refused = -kLowest;  // the first place, in the filter's order, that is known not to be kept
  for (int points = 0; points < kMaxPoints; ++points) {
    const auto id = row_.token_at(uniforms.next_below(room));
    if (!id) continue;
    if (!typical && options.top_p >= 1.0) return id;
    const float quotient = row_.quotient(row_.scores()[static_cast<size_t>(*id)]);
    const float place = typical ? std::abs(row_.information().excess(quotient)) : -quotient;
    if (place > refused) continue;
    if (typical ? row_.is_typical(*id, options.typical_p) : row_.starts_below(*id, options.top_p)) return id;
    refused = place;
  }
  return std::nullopt;
}

// Walks the tokens in order of their ids to the one on whose weight the drawn integer falls.
int32_t Sampler::draw_from_candidates(UniformSequence& uniforms) const {
  const std::vector<float>& exps = candidates_.exps;
  const int64_t total = total_weight(exps.data(), static_cast<int64_t>(exps.size()));
  if (total == 0) return kNoToken;
  int64_t offset = uniforms.next_below(total);
  size_t i = 0;
  while (offset >= to_weight(exps[i])) offset -= to_weight(exps[i++]);
  return candidates_.ids[i];
}

// Lists what the filters leave of the row.
void Sampler::apply_filters(const SamplingOptions& options) {
  listed_ = false;
  if (!row_.has_softmax()) {
    keep_largest();
    return;
  }
  if (filters_by_rank(options, static_cast<int64_t>(row_.scores().size()))) keep_top_k(options.top_k);
  if (options.top_p < 1.0) keep_top_p(options.top_p);
  if (options.min_p > 0.0) keep_min_p(options.min_p);
  if (options.typical_p < 1.0) keep_typical(options.typical_p);
  if (!listed_) collect(kLowest);
}

// Lists the tokens with a quotient of at least `lowest_quotient` and above -infinity, with their exps.
void Sampler::collect(float lowest_quotient) {
  lowest_quotient = std::max(lowest_quotient, std::numeric_limits<float>::lowest());
  row_.collect_above(row_.bound_below(lowest_quotient), candidates_.ids, candidates_.scores);
  candidates_.exps.resize(candidates_.scores.size());
  row_.exps_of(candidates_.scores, candidates_.exps.data());
  for (float& score : candidates_.scores) score = row_.quotient(score);
  listed_ = true;
}

// Keeps candidate i where keep(i), in order. keep is asked for ascending i, each once.
template <class Keep>
void Sampler::compact(Keep&& keep) {
  size_t kept = 0;
  for (size_t i = 0; i < candidates_.ids.size(); ++i) {
    const bool keeps = keep(i);  // no branch: which tokens are kept cannot be predicted
    candidates_.ids[kept] = candidates_.ids[i];
    candidates_.scores[kept] = candidates_.scores[i];
    candidates_.exps[kept] = candidates_.exps[i];
    kept += keeps;
  }
  candidates_.ids.resize(kept);
  candidates_.scores.resize(kept);
  candidates_.exps.resize(kept);
}

// Where infinite logits, or a temperature so low that the scores overflow, leave no finite maximum: the limit, a draw among the
// equal largest scores.
void Sampler::keep_largest() {
  if (row_.largest() == kLowest) throw_no_token();
  row_.set_temperature(1.0f);
  collect(row_.largest());
  std::fill(candidates_.exps.begin(), candidates_.exps.end(), 1.0f);
}

// A bound that at least k of the scores are above, and few more if they differ; -infinity where k are not above a finite one.
// If k blocks or groups have a maximum above a bound, at least k scores are above it.
float Sampler::bound_of_top_k(int64_t k) const {
  std::span<const float> values = row_.scores();
  for (const std::span<const float> maxima : {row_.group_maxima(), row_.maxima()})
    if (k * kMaximaPerRank <= static_cast<int64_t>(maxima.size())) values = maxima;
  const auto count_above = [&](float bound) {
    return kernels_.count_above(values.data(), static_cast<int64_t>(values.size()), bound);
  };
  // Down in growing steps, then up by halves. Counting needs no branches, unlike a partial sort.
  constexpr int kMaxHalvings = 20;
  float low = row_.largest(), high = low;
  int64_t count = 0;
  for (float step = 1; count < k; step *= 2) {
    high = low;
    low -= step;
    if (!std::isfinite(low)) return kLowest;
    count = count_above(low);
  }
  for (int i = 0; i < kMaxHalvings && count > k + k / 8; ++i) {
    const float middle = low + (high - low) / 2;
    const int64_t count_of_middle = count_above(middle);
    if (count_of_middle < k) {
      high = middle;
    } else {
      low = middle;
      count = count_of_middle;
    }
  }
  return low;
}

void Sampler::keep_top_k(int64_t k) {
  collect(row_.quotient(bound_of_top_k(k)));
  if (k >= static_cast<int64_t>(candidates_.scores.size())) return;
  scratch_ = candidates_.scores;
  std::nth_element(scratch_.begin(), scratch_.begin() + (k - 1), scratch_.end(), std::greater<>());
  const float threshold = scratch_[static_cast<size_t>(k - 1)];
  compact([&](size_t i) { return candidates_.scores[i] >= threshold; });
}

// The score with which the mass of the candidates, from the largest score down, reaches the target, and the mass above it. That
// of the scores from `above` on is known and smaller.
Sampler::Border Sampler::find_top_p_border(float above, int64_t mass_above, int64_t target) {
  // By score into buckets: only the one that holds the border is looked at closely.
  constexpr int kBuckets = 512;
  constexpr float kNegligible = 64;  // so far below the largest score weights are zero
  const float high = std::min(above, row_.quotient(row_.largest()));
  float low = high;
  for (const float score : candidates_.scores) low = std::min(low, score);
  const float scale = static_cast<float>(kBuckets) / std::clamp(high - low, 1e-30f, kNegligible);
  const auto bucket_of = [&](float score) {
    return static_cast<size_t>(std::min((high - score) * scale, static_cast<float>(kBuckets - 1)));
  };
  std::array<int64_t, kBuckets> masses{};
  for (size_t i = 0; i < candidates_.ids.size(); ++i)
    if (candidates_.scores[i] < above) masses[bucket_of(candidates_.scores[i])] += to_weight(candidates_.exps[i]);
  size_t bucket = 0;
  for (; bucket < kBuckets - 1 && mass_above + masses[bucket] < target; ++bucket) mass_above += masses[bucket];
  elements_.clear();
  for (size_t i = 0; i < candidates_.ids.size(); ++i)
    if (candidates_.scores[i] < above && bucket_of(candidates_.scores[i]) == bucket)
      elements_.push_back({-candidates_.scores[i], to_weight(candidates_.exps[i])});
  const auto [key, mass_before] = select_by_mass(elements_, target - mass_above);
  return {-key, mass_above + mass_before};
}

void Sampler::keep_top_p(double top_p) {
  const auto listed_total = [&] {
    return total_weight(candidates_.exps.data(), static_cast<int64_t>(candidates_.exps.size()));
  };
  const int64_t target = mass_to_reach(top_p, listed_ ? listed_total() : row_.total());
  float above = std::numeric_limits<float>::infinity();  // scores from here on are kept, and have a mass of
  int64_t mass_above = 0;
  if (!listed_) {
    // Where the tokens above a threshold have the mass, those below are not kept. Few need to be looked at, most of the time;
    // more where the most likely token has a small part of the mass. (A guess: the result does not depend on it.)
    const double guess = log_exact(static_cast<double>(target)) - kWeightBits * kLn2;
    const float largest = row_.quotient(row_.largest());
    for (const float depth : kTopPDepths) {
      if (static_cast<double>(depth) < guess) continue;
      collect(largest - depth);
      const int64_t mass = listed_total();
      if (mass >= target) break;
      above = largest - depth;
      mass_above = mass;
    }
  }
  const auto [border, mass_before] = find_top_p_border(above, mass_above, target);

  // Of the tokens that tie at the border, the ones with higher ids come first.
  size_t first_kept = candidates_.ids.size();
  int64_t mass = mass_before;
  for (size_t i = candidates_.ids.size(); i-- > 0 && mass < target;) {
    if (candidates_.scores[i] != border) continue;
    mass += to_weight(candidates_.exps[i]);
    first_kept = i;
  }
  compact([&, lowest = border](size_t i) {  // a structured binding by its name alone not before clang 16
    return candidates_.scores[i] > lowest || (candidates_.scores[i] == lowest && i >= first_kept);
  });
}

// The lowest quotient of a token that is at least min_p times as likely as the most likely one, to the rounding of float32:
// with 1 all tokens are kept whose ratio rounds to 1.
float Sampler::lowest_min_p_quotient(double min_p) const {
  const float positive = std::max(static_cast<float>(min_p), std::numeric_limits<float>::min());
  float log_min_p = 0;
  kernels_.log(&positive, 1, &log_min_p);
  const double exact = static_cast<double>(row_.quotient(row_.largest())) + static_cast<double>(log_min_p) - 0x1p-25;
  const float rounded = static_cast<float>(exact);
  return static_cast<double>(rounded) < exact ? std::nextafter(rounded, -kLowest) : rounded;
}

void Sampler::keep_min_p(double min_p) {
  const float lowest = lowest_min_p_quotient(min_p);
  if (!listed_) return collect(lowest);
  compact([&](size_t i) { return candidates_.scores[i] >= lowest; });
}

// Locally typical sampling (Meister et al., 2022): tokens in order of |information - entropy|.
void Sampler::keep_typical(double typical_p) {
  const Information all = listed_ ? information_of_candidates() : row_.information();
  if (!listed_) collect(kLowest);
  const auto distance = [&](size_t i) { return std::abs(all.excess(candidates_.scores[i])); };
  elements_.clear();
  int64_t total = 0;
  for (size_t i = 0; i < candidates_.ids.size(); ++i) {
    elements_.push_back({distance(i), to_weight(candidates_.exps[i])});
    total += elements_.back().weight;
  }
  const float border = select_by_mass(elements_, mass_to_reach(typical_p, total)).key;
  compact([&](size_t i) { return distance(i) <= border; });
}

// What the tokens tell among those that are left.
Information Sampler::information_of_candidates() const {
  const int64_t total = total_weight(candidates_.exps.data(), static_cast<int64_t>(candidates_.exps.size()));
  const float log_sum = log_total(kernels_, total), largest = row_.quotient(row_.largest());
  double expected_score = 0;  // of score - largest, times total; added in order of ids
  for (size_t i = 0; i < candidates_.ids.size(); ++i)
    if (const int64_t weight = to_weight(candidates_.exps[i]); weight > 0)  // 0 * -infinity would be NaN
      expected_score += static_cast<double>(weight) * static_cast<double>(candidates_.scores[i] - largest);
  return {log_sum, largest, static_cast<float>(static_cast<double>(log_sum) - expected_score / static_cast<double>(total))};
}

}  // namespace pythia
