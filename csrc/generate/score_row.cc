#include "generate/score_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "generate/selection.h"

namespace pythia {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Threads share a row in parts of this many scores, if there are at least kMinParts of them: less is sooner done by one.
constexpr int64_t kPart = 4 * kSoftmaxChunk;
static_assert(kPart <= kMaxEstimated);
constexpr int64_t kMinParts = 4;

// The room of a group is that of kGroupSize scores: for each its bound times kBoundUnit. No weight is above that of the group's
// largest score by more than a few units in the last place or one. The total stays below 2^63.
constexpr int64_t kBoundUnit = (int64_t{1} << (kWeightBits - kBoundBits)) + 4;

int64_t id_in_group(int64_t group, int64_t place) {
  return group / kScoreGroups * kScoreBlock + group % kScoreGroups + place * kScoreGroups;
}

// Groups with more than this part of all room are weighed at once.
constexpr int64_t kHeavyShare = 16;

// One thread looks at this many blocks sooner than it would share them.
constexpr int32_t kFewBlocks = 64;

// Places of floats in ascending order, next to each other for neighbours; both zeros are at 0.
int32_t place_of(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  return bits >= 0 ? bits : std::numeric_limits<int32_t>::min() - bits;
}
float float_at(int64_t place) {
  const auto magnitude = static_cast<uint32_t>(place < 0 ? -place : place);
  return std::bit_cast<float>(magnitude | (place < 0 ? 0x80000000u : 0u));
}

}  // namespace

template <class Body>
void ScoreRow::for_parts(const Body& body) const {
  const auto size = static_cast<int64_t>(scores_.size());
  const auto run_part = [&](int64_t part) { body(part * kPart, std::min((part + 1) * kPart, size)); };
  const int64_t num_parts = ceil_div(size, kPart);
  if (parallel_for_ && num_parts >= kMinParts) {
    (*parallel_for_)(num_parts, run_part);
  } else {
    for (int64_t part = 0; part < num_parts; ++part) run_part(part);
  }
}

void ScoreRow::reset(std::span<const float> scores, const ScoreMaxima& maxima, float temperature,
                     const ParallelFor* parallel_for) {
  scores_ = scores;
  parallel_for_ = parallel_for;
  num_blocks_ = static_cast<size_t>(ScoreMaxima::num_blocks(static_cast<int64_t>(scores.size())));
  maxima_ = maxima;
  if (!maxima.of_blocks) {
    own_block_maxima_.resize(num_blocks_);
    own_group_maxima_.resize(num_blocks_ * kScoreGroups);
    maxima_ = {own_block_maxima_.data(), own_group_maxima_.data()};
    for_parts([&](int64_t begin, int64_t end) { maxima_.update(kernels_, scores_.data() + begin, begin, end - begin); });
  }
  scale_.largest = block_maxima(kernels_, this->maxima(), maxima_of_maxima_);
  set_temperature(temperature);
}

void ScoreRow::set_temperature(float temperature) {
  temperature_ = temperature;
  information_.reset();
  scale_.steepness = std::max(static_cast<float>(std::numbers::log2e / static_cast<double>(temperature)), kMinSteepness);
}

int32_t ScoreRow::argmax() const {
  const std::span<const float> blocks = maxima();
  const auto block = std::find(blocks.begin(), blocks.end(), largest()) - blocks.begin();
  return static_cast<int32_t>(std::find(scores_.begin() + block * kScoreBlock, scores_.end(), largest()) - scores_.begin());
}

bool ScoreRow::has_softmax() const { return std::isfinite(quotient(scale_.largest)) && std::isfinite(scale_.steepness); }

// The lowest score that `reaches`, as all above it do, infinity among them. Sooner found near a guess.
template <class Reaches>
float ScoreRow::first_score(float guess, const Reaches& reaches) const {
  // From the guess on in growing steps, then by halves: `high` reaches, `low` does not.
  const auto reaches_at = [&](int64_t place) { return reaches(float_at(place)); };
  const int64_t last = place_of(kInfinity), first = place_of(guess);
  int64_t low = first, high = first, step = 1;
  for (; !reaches_at(high); step *= 2) low = high, high = std::min(high + step, last);
  if (low == high)
    for (step = 1; low >= -last && reaches_at(low); step *= 2) high = low, low = std::max(low - step, -last - 1);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (reaches_at(middle) ? high : low) = middle;
  }
  return float_at(high);
}

float ScoreRow::lowest_with(float quotient_bound) const {
  if (temperature_ == 1.0f || std::isinf(quotient_bound)) return quotient_bound;
  return first_score(quotient_bound * temperature_, [&](float score) { return quotient(score) >= quotient_bound; });
}

float ScoreRow::bound_below(float quotient_bound) const { return std::nextafter(lowest_with(quotient_bound), -kInfinity); }

void ScoreRow::exps_of(std::span<const float> scores, float* exps) const {
  kernels_.softmax_exps(scores.data(), static_cast<int64_t>(scores.size()), scale_, exps);
}

void ScoreRow::collect_above(float bound, std::vector<int32_t>& ids, std::vector<float>& scores) {
  found_ids_.resize(scores_.size());
  found_scores_.resize(scores_.size());
  const int64_t count = kernels_.collect_above(scores_.data(), static_cast<int64_t>(scores_.size()), maxima_.of_blocks, bound,
                                               found_ids_.data(), found_scores_.data());
  ids.assign(found_ids_.begin(), found_ids_.begin() + count);
  scores.assign(found_scores_.begin(), found_scores_.begin() + count);
}

size_t ScoreRow::num_chunks() const {
  return static_cast<size_t>(ceil_div(static_cast<int64_t>(scores_.size()), kSoftmaxChunk));
}

int64_t ScoreRow::chunk_total_above(size_t chunk, float bound) const {
  const size_t begin = chunk * kSoftmaxChunk, size = std::min<size_t>(kSoftmaxChunk, scores_.size() - begin);
  return kernels_.softmax_total_above(scores_.data() + begin, static_cast<int64_t>(size), scale_,
                                      maxima_.of_blocks + begin / kScoreBlock, bound);
}

int64_t ScoreRow::total() {
  totals_.resize(num_chunks());
  for_parts([&](int64_t begin, int64_t end) {
    kernels_.softmax_totals(scores_.data() + begin, end - begin, scale_, totals_.data() + begin / kSoftmaxChunk);
  });
  return std::accumulate(totals_.begin(), totals_.end(), int64_t{0});
}

const Information& ScoreRow::information() {
  if (information_) return *information_;
  totals_.resize(num_chunks());
  moments_.resize(num_chunks());
  for_parts([&](int64_t begin, int64_t end) {
    const int64_t chunk = begin / kSoftmaxChunk;
    kernels_.softmax_moments(scores_.data() + begin, end - begin, scale_, totals_.data() + chunk, moments_.data() + chunk);
  });
  const int64_t total = std::accumulate(totals_.begin(), totals_.end(), int64_t{0});
  const double moment = std::accumulate(moments_.begin(), moments_.end(), 0.0);
  const double below_largest = moment * std::numbers::ln2 / std::ldexp(static_cast<double>(total), -kWeightBits);
  const float log_sum = log_total(kernels_, total);
  information_ = {log_sum, quotient(scale_.largest), static_cast<float>(static_cast<double>(log_sum) + below_largest)};
  return *information_;
}

int64_t ScoreRow::make_room(float bound) {
  const auto num_groups = static_cast<int64_t>(num_blocks_) * kScoreGroups;
  bound_ = bound;
  bounds_.resize(static_cast<size_t>(num_groups));
  bounds_of_parts_.resize(static_cast<size_t>(ceil_div(num_groups, kBoundsPart)));
  kernels_.softmax_bounds(maxima_.of_groups, num_groups, scale_, bound, bounds_.data(), bounds_of_parts_.data());
  weigh_heavy_groups();
  const int64_t bounds = std::accumulate(bounds_of_parts_.begin(), bounds_of_parts_.end(), int64_t{0});
  // The weights of the other groups' largest scores alone (kernels.h).
  const auto least = static_cast<int64_t>(static_cast<double>(bounds - 2 * num_groups) / kChordExcess);
  least_total_ = heavy_mass_ + (std::max(least, int64_t{0}) << (kWeightBits - kBoundBits));
  return heavy_mass_ + kGroupSize * kBoundUnit * bounds;
}

// Takes groups with much of all room out of it, and gives them what their weights need.
void ScoreRow::weigh_heavy_groups() {
  heavy_groups_.clear();
  heavy_mass_ = 0;
  const int64_t all = std::accumulate(bounds_of_parts_.begin(), bounds_of_parts_.end(), int64_t{0});
  const auto limit = static_cast<int32_t>(std::min<int64_t>(all / kHeavyShare, std::numeric_limits<int32_t>::max()));
  for (size_t first = 0; first < bounds_.size(); first += kScoreGroups) {
    int32_t& bound_of_part = bounds_of_parts_[first / kBoundsPart];
    if (bound_of_part <= limit) continue;
    bool has_heavy = false;
    for (size_t i = first; i < first + kScoreGroups; ++i) has_heavy |= bounds_[i] > limit;
    for (size_t i = first; has_heavy && i < first + kScoreGroups; ++i) {
      if (bounds_[i] <= limit) continue;
      const GroupWeights weights = weights_of_group(static_cast<int64_t>(i));
      const int64_t mass = std::accumulate(weights.begin(), weights.end(), int64_t{0});
      heavy_groups_.push_back({static_cast<int64_t>(i), mass});
      heavy_mass_ += mass;
      bound_of_part -= bounds_[i];
      bounds_[i] = 0;
    }
  }
}

// Of the scores above the bound of make_room, 0 for others.
ScoreRow::GroupWeights ScoreRow::weights_of_group(int64_t group) const {
  std::array<float, kGroupSize> scores, exps;
  scores.fill(-kInfinity);
  for (int64_t i = 0; i < kGroupSize && id_in_group(group, i) < static_cast<int64_t>(scores_.size()); ++i)
    scores[static_cast<size_t>(i)] = scores_[static_cast<size_t>(id_in_group(group, i))];
  exps_of(scores, exps.data());
  GroupWeights weights{};
  for (size_t i = 0; i < kGroupSize; ++i)
    if (scores[i] > bound_) weights[i] = to_weight(exps[i]);
  return weights;
}

std::optional<int32_t> ScoreRow::token_at(int64_t point) const {
  if (point < heavy_mass_) return token_of_heavy_group(point);
  point -= heavy_mass_;
  constexpr int64_t kGroupUnit = kGroupSize * kBoundUnit;
  int64_t offset = point / kGroupUnit, group = 0;
  for (size_t part = 0; offset >= bounds_of_parts_[part]; group += kBoundsPart) offset -= bounds_of_parts_[part++];
  for (; offset >= bounds_[static_cast<size_t>(group)]; ++group) offset -= bounds_[static_cast<size_t>(group)];
  offset = offset * kGroupUnit + point % kGroupUnit;

  // Each weight lies at the beginning of its part of the group's room.
  const int64_t room = kBoundUnit * bounds_[static_cast<size_t>(group)], id = id_in_group(group, offset / room);
  if (id >= static_cast<int64_t>(scores_.size())) return std::nullopt;
  const float score = scores_[static_cast<size_t>(id)];
  if (!(score > bound_) || offset % room >= weight_of(score)) return std::nullopt;
  return static_cast<int32_t>(id);
}

int32_t ScoreRow::token_of_heavy_group(int64_t offset) const {
  auto heavy = heavy_groups_.begin();
  for (; offset >= heavy->mass; ++heavy) offset -= heavy->mass;
  const GroupWeights weights = weights_of_group(heavy->group);
  int64_t place = 0;
  for (; offset >= weights[static_cast<size_t>(place)]; ++place) offset -= weights[static_cast<size_t>(place)];
  return static_cast<int32_t>(id_in_group(heavy->group, place));
}

int64_t ScoreRow::weight_of(float score) const {
  float exp = 0;
  exps_of({&score, 1}, &exp);
  return to_weight(exp);
}

// The mass of the scores above a bound, by one thread.
int64_t ScoreRow::mass_of_few(float bound) const {
  int64_t mass = 0;
  for (size_t i = 0; i < num_chunks(); ++i) mass += chunk_total_above(i, bound);
  return mass;
}

// The sum of mass(chunk) over all chunks.
template <class Mass>
int64_t ScoreRow::sum_of_chunks(const Mass& mass) {
  masses_.resize(num_chunks());
  for_parts([&](int64_t begin, int64_t end) {
    for (size_t i = static_cast<size_t>(begin) / kSoftmaxChunk; i * kSoftmaxChunk < static_cast<size_t>(end); ++i)
      masses_[i] = mass(i);
  });
  return std::accumulate(masses_.begin(), masses_.end(), int64_t{0});
}

bool ScoreRow::starts_below(int32_t id, double part) {
  // Scores above `above` come before the token; those above `below_ties` do where their ids are higher.
  const float score = scores_[static_cast<size_t>(id)], own = quotient(score);
  const float above = bound_below(std::nextafter(own, kInfinity)), below_ties = bound_below(own);
  const int64_t own_weight = weight_of(score);
  if (kernels_.count_above(maxima_.of_blocks, static_cast<int64_t>(num_blocks_), below_ties) <= kFewBlocks &&
      mass_of_few(below_ties) - own_weight < mass_to_reach(part, least_total_))
    return true;
  if (const auto answer = starts_below_by_estimate(above, below_ties, own_weight, part)) return *answer;

  const auto own_chunk = static_cast<size_t>(id) / kSoftmaxChunk;
  int64_t before = sum_of_chunks([&](size_t i) { return chunk_total_above(i, i > own_chunk ? below_ties : above); });
  const size_t end_of_own = std::min<size_t>((own_chunk + 1) * kSoftmaxChunk, scores_.size());
  for (size_t i = static_cast<size_t>(id) + 1; i < end_of_own; ++i)
    if (scores_[i] > below_ties && !(scores_[i] > above)) before += weight_of(scores_[i]);
  return before < mass_to_reach(part, total());
}

bool ScoreRow::is_typical(int32_t id, double part) {
  const Information& all = information();
  const auto excess = [&](float score) { return all.excess(quotient(score)); };
  const float distance = std::abs(excess(scores_[static_cast<size_t>(id)]));
  // Nearer ones are from `low` on and below `high`: the higher the score, the less the information.
  const float center = all.log_total + all.largest - all.entropy;
  const float low = first_score((center - distance) * temperature_, [&](float score) { return excess(score) < distance; });
  const float high = first_score((center + distance) * temperature_, [&](float score) { return excess(score) <= -distance; });
  const float below_low = std::nextafter(low, -kInfinity), below_high = std::nextafter(high, -kInfinity);
  const int64_t nearer =
      sum_of_chunks([&](size_t i) { return chunk_total_above(i, below_low) - chunk_total_above(i, below_high); });
  return nearer < mass_to_reach(part, std::accumulate(totals_.begin(), totals_.end(), int64_t{0}));
}

// What starts_below says, unless the answer is too near.
std::optional<bool> ScoreRow::starts_below_by_estimate(float above, float below_ties, int64_t own_weight, double part) {
  estimates_.resize(static_cast<size_t>(ceil_div(static_cast<int64_t>(scores_.size()), kPart)));
  for_parts([&](int64_t begin, int64_t end) {
    estimates_[static_cast<size_t>(begin / kPart)] =
        kernels_.softmax_estimate(scores_.data() + begin, end - begin, scale_, above, below_ties);
  });
  double all = 0, before = 0, with_ties = 0;
  for (const SoftmaxEstimate& estimate : estimates_) {
    all += static_cast<double>(estimate.all);
    before += static_cast<double>(estimate.above_high);
    with_ties += static_cast<double>(estimate.above_low);
  }
  // kernels.h
  const auto n = static_cast<int64_t>(scores_.size());
  const auto most = [n](double x) { return static_cast<int64_t>(std::ldexp(x * kChordDeficit, kWeightBits)) + n; };
  const auto least = [n](double x) {
    return std::max(static_cast<int64_t>(std::ldexp(x / kChordExcess, kWeightBits)) - n, int64_t{1});
  };
  if (most(with_ties) - own_weight < mass_to_reach(part, least(all))) return true;
  if (least(before) >= mass_to_reach(part, most(all))) return false;
  return std::nullopt;
}

}  // namespace pythia
