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

void ScoreRow::reset(std::span<const float> scores, float temperature, const ParallelFor* parallel_for) {
  scores_ = scores;
  temperature_ = temperature;
  parallel_for_ = parallel_for;
  maxima_.resize(static_cast<size_t>(ceil_div(static_cast<int64_t>(scores.size()), kScoreBlock)));
  for_parts([&](int64_t begin, int64_t end) {
    kernels_.block_maxima(scores_.data() + begin, end - begin, maxima_.data() + begin / kScoreBlock);
  });
  scale_.largest = block_maxima(kernels_, maxima_, maxima_of_maxima_);
  scale_.steepness = std::max(static_cast<float>(std::numbers::log2e / static_cast<double>(temperature)), kMinSteepness);
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
  const int64_t count = kernels_.collect_above(scores_.data(), static_cast<int64_t>(scores_.size()), maxima_.data(), bound,
                                               found_ids_.data(), found_scores_.data());
  ids.assign(found_ids_.begin(), found_ids_.begin() + count);
  scores.assign(found_scores_.begin(), found_scores_.begin() + count);
}

int64_t ScoreRow::chunk_total_above(size_t chunk, float bound) const {
  const size_t begin = chunk * kSoftmaxChunk, size = std::min<size_t>(kSoftmaxChunk, scores_.size() - begin);
  return kernels_.softmax_total_above(scores_.data() + begin, static_cast<int64_t>(size), scale_,
                                      maxima_.data() + begin / kScoreBlock, bound);
}

void ScoreRow::weigh(float bound, Masses& masses) const {
  masses.bound = bound;
  masses.chunks.resize(static_cast<size_t>(ceil_div(static_cast<int64_t>(scores_.size()), kSoftmaxChunk)));
  for_parts([&](int64_t begin, int64_t end) {
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
    const int64_t mass =
        kernels_.softmax_total_above(scores_.data() + begin, size, scale_, maxima_.data() + begin / kScoreBlock, masses.bound);
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
    const size_t end = std::min((chunk + 1) * kSoftmaxChunk, scores_.size());
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
