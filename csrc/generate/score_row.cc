#include "generate/score_row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "generate/selection.h"

namespace pythia {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Threads share a row in parts of this many scores, if there are at least kMinParts of them: less is sooner done by one.
constexpr int64_t kPart = 4 * kSoftmaxChunk;
constexpr int64_t kMinParts = 4;

// A group has at most kGroupSize scores. No weight is above that of their maximum by more than a few units in the last place or
// one: kBoundUnit times the bound of that weight is above their sum. The total of such products stays below 2^63.
constexpr int64_t kGroupSize = kScoreBlock / kScoreGroups;
constexpr int64_t kBoundUnit = (kGroupSize + 1) << (kWeightBits - kBoundBits);

// One point in nine falls on a token at worst. From this many on the total is the lesser work.
constexpr int kBoundedTries = 32;

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
void ScoreRow::for_parts(const ParallelFor* parallel_for, const Body& body) const {
  const auto size = static_cast<int64_t>(scores_.size());
  const auto run_part = [&](int64_t part) { body(part * kPart, std::min((part + 1) * kPart, size)); };
  const int64_t num_parts = ceil_div(size, kPart);
  if (parallel_for && num_parts >= kMinParts) {
    (*parallel_for)(num_parts, run_part);
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
    for_parts(parallel_for_,
              [&](int64_t begin, int64_t end) { maxima_.update(kernels_, scores_.data() + begin, begin, end - begin); });
  }
  scale_.largest = block_maxima(kernels_, this->maxima(), maxima_of_maxima_);
  set_temperature(temperature);
}

void ScoreRow::set_temperature(float temperature) {
  temperature_ = temperature;
  scale_.steepness = std::max(static_cast<float>(std::numbers::log2e / static_cast<double>(temperature)), kMinSteepness);
}

int32_t ScoreRow::argmax() const {
  const std::span<const float> blocks = maxima();
  const auto block = std::find(blocks.begin(), blocks.end(), largest()) - blocks.begin();
  return static_cast<int32_t>(std::find(scores_.begin() + block * kScoreBlock, scores_.end(), largest()) - scores_.begin());
}

bool ScoreRow::has_softmax() const { return std::isfinite(quotient(scale_.largest)) && std::isfinite(scale_.steepness); }

float ScoreRow::lowest_with(float quotient_bound) const {
  if (temperature_ == 1.0f || std::isinf(quotient_bound)) return quotient_bound;
  // From a guess on in growing steps, then by halves: `high` has such a quotient, `low` does not.
  const auto reaches = [&](int64_t place) { return quotient(float_at(place)) >= quotient_bound; };
  const int64_t last = place_of(kInfinity), guess = place_of(quotient_bound * temperature_);
  int64_t low = guess, high = guess, step = 1;
  for (; !reaches(high); step *= 2) low = high, high = std::min(high + step, last);
  if (low == high)
    for (step = 1; low >= -last && reaches(low); step *= 2) high = low, low = std::max(low - step, -last - 1);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (reaches(middle) ? high : low) = middle;
  }
  return float_at(high);
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

int64_t ScoreRow::chunk_total_above(size_t chunk, float bound) const {
  const size_t begin = chunk * kSoftmaxChunk, size = std::min<size_t>(kSoftmaxChunk, scores_.size() - begin);
  return kernels_.softmax_total_above(scores_.data() + begin, static_cast<int64_t>(size), scale_,
                                      maxima_.of_blocks + begin / kScoreBlock, bound);
}

void ScoreRow::weigh(float bound, Masses& masses) const {
  masses.bound = bound;
  masses.chunks.resize(static_cast<size_t>(ceil_div(static_cast<int64_t>(scores_.size()), kSoftmaxChunk)));
  const bool few = kernels_.count_above(maxima_.of_blocks, static_cast<int64_t>(num_blocks_), bound) <= kFewBlocks;
  for_parts(few ? nullptr : parallel_for_, [&](int64_t begin, int64_t end) {
    const auto first = static_cast<size_t>(begin / kSoftmaxChunk), last = static_cast<size_t>(ceil_div(end, kSoftmaxChunk));
    if (bound == kNoBound) {
      kernels_.softmax_totals(scores_.data() + begin, end - begin, scale_, masses.chunks.data() + first);
    } else {
      for (size_t chunk = first; chunk < last; ++chunk) masses.chunks[chunk] = chunk_total_above(chunk, bound);
    }
  });
  masses.total = std::accumulate(masses.chunks.begin(), masses.chunks.end(), int64_t{0});
}

int32_t ScoreRow::token_at(const Masses& masses, int64_t offset) const {
  // The chunk, then the block, then the token.
  size_t chunk = 0;
  while (offset >= masses.chunks[chunk]) offset -= masses.chunks[chunk++];
  size_t begin = chunk * kSoftmaxChunk;
  for (;; begin += kScoreBlock) {
    const auto size = static_cast<int64_t>(std::min<size_t>(kScoreBlock, scores_.size() - begin));
    const int64_t mass = kernels_.softmax_total_above(scores_.data() + begin, size, scale_,
                                                      maxima_.of_blocks + begin / kScoreBlock, masses.bound);
    if (offset < mass) break;
    offset -= mass;
  }
  std::array<float, kScoreBlock> exps;
  exps_of(scores_.subspan(begin, std::min<size_t>(kScoreBlock, scores_.size() - begin)), exps.data());
  for (size_t i = 0;; ++i) {
    if (!(scores_[begin + i] > masses.bound)) continue;
    const int64_t weight = to_weight(exps[i]);
    if (offset < weight) return static_cast<int32_t>(begin + i);
    offset -= weight;
  }
}

int32_t ScoreRow::draw(UniformSequence& uniforms, Masses& masses) {
  const auto num_groups = static_cast<int64_t>(num_blocks_) * kScoreGroups;
  bounds_.resize(static_cast<size_t>(num_groups));
  bounds_of_parts_.resize(static_cast<size_t>(ceil_div(num_groups, kBoundsPart)));
  kernels_.softmax_bounds(maxima_.of_groups, num_groups, scale_, bounds_.data(), bounds_of_parts_.data());
  const int64_t total = kBoundUnit * std::accumulate(bounds_of_parts_.begin(), bounds_of_parts_.end(), int64_t{0});
  for (int i = 0; i < kBoundedTries; ++i)
    if (const auto id = token_under_bounds(uniforms.next_below(total))) return *id;
  weigh(kNoBound, masses);
  return token_at(masses, uniforms.next_below(masses.total));
}

// The token on whose weight `point` falls, each group's weights at the beginning of its bound; none if it falls behind them.
std::optional<int32_t> ScoreRow::token_under_bounds(int64_t point) const {
  int64_t offset = point / kBoundUnit, group = 0;
  for (size_t part = 0; offset >= bounds_of_parts_[part]; group += kBoundsPart) offset -= bounds_of_parts_[part++];
  for (; offset >= bounds_[static_cast<size_t>(group)]; ++group) offset -= bounds_[static_cast<size_t>(group)];
  offset = offset * kBoundUnit + point % kBoundUnit;

  const auto first = static_cast<size_t>(group / kScoreGroups * kScoreBlock + group % kScoreGroups);
  std::array<float, kGroupSize> scores, exps;
  size_t size = 0;
  for (size_t id = first; size < kGroupSize && id < scores_.size(); id += kScoreGroups) scores[size++] = scores_[id];
  exps_of({scores.data(), size}, exps.data());
  for (size_t k = 0; k < size; ++k) {
    const int64_t weight = to_weight(exps[k]);
    if (offset < weight) return static_cast<int32_t>(first + k * kScoreGroups);
    offset -= weight;
  }
  return std::nullopt;
}

bool ScoreRow::starts_below(int32_t id, int64_t target, const Masses& all) const {
  // Scores above `above` come before the token, those from `lowest_tie` up to it do where their ids are higher.
  const float own = quotient(scores_[static_cast<size_t>(id)]);
  const float lowest_tie = lowest_with(own), above = bound_below(std::nextafter(own, kInfinity));
  const auto own_chunk = static_cast<size_t>(id / kSoftmaxChunk);
  int64_t before = 0, unknown = all.total;  // of the chunks looked at and of the others
  for (size_t chunk = 0; chunk < all.chunks.size(); ++chunk) {
    if (before >= target || before + unknown < target) break;
    unknown -= all.chunks[chunk];
    before += chunk_total_above(chunk, chunk > own_chunk ? std::nextafter(lowest_tie, -kInfinity) : above);
    if (chunk != own_chunk) continue;
    const size_t end = std::min<size_t>((chunk + 1) * kSoftmaxChunk, scores_.size());
    for (size_t i = static_cast<size_t>(id) + 1; i < end; ++i) {
      if (!(scores_[i] >= lowest_tie && scores_[i] <= above)) continue;
      float exp = 0;
      exps_of(scores_.subspan(i, 1), &exp);
      before += to_weight(exp);
    }
  }
  return before + unknown < target;
}

}  // namespace pythia
