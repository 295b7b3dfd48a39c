#include "generate/selection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace pythia {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// 2^14 as a double has its unit in the last place at 2^-38, so e + 2^14 has round_half_even(2^38 e) in its low bits.
static_assert(kWeightBits == 38);
constexpr double kWeightShift = 16384.0;

int64_t shifted_bits(float e) { return std::bit_cast<int64_t>(static_cast<double>(e) + kWeightShift); }

}  // namespace

float block_maxima(const KernelTable& kernels, std::span<const float> scores, std::vector<float>& maxima) {
  maxima.resize(static_cast<size_t>(ceil_div(static_cast<int64_t>(scores.size()), kScoreBlock)));
  kernels.block_maxima(scores.data(), static_cast<int64_t>(scores.size()), maxima.data(), nullptr);
  return maxima.empty() ? kLowest : *std::max_element(maxima.begin(), maxima.end());
}

float kth_largest(std::span<const float> scores, std::span<const float> maxima, int64_t k, std::vector<float>& scratch) {
  scratch.clear();
  float bound = kLowest;
  if (k <= static_cast<int64_t>(maxima.size())) {
    // k blocks have a maximum of at least `bound`, so at least k scores do, and the k-th largest is among those.
    scratch.assign(maxima.begin(), maxima.end());
    std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<>());
    bound = scratch[static_cast<size_t>(k - 1)];
    scratch.clear();
  }
  for (size_t b = 0; b < maxima.size(); ++b) {
    if (maxima[b] < bound) continue;
    const size_t begin = b * kScoreBlock, end = std::min<size_t>(begin + kScoreBlock, scores.size());
    for (size_t i = begin; i < end; ++i)
      if (scores[i] >= bound) scratch.push_back(scores[i]);
  }
  if (k > static_cast<int64_t>(scratch.size())) return kLowest;  // only with NaN among the scores
  std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<>());
  return scratch[static_cast<size_t>(k - 1)];
}

std::vector<int64_t> largest_places(std::span<const float> scores, std::span<const float> maxima, int64_t n,
                                    std::vector<float>& scratch) {
  n = std::min(n, static_cast<int64_t>(scores.size()));
  std::vector<int64_t> best;
  if (n <= 0) return best;
  const float bound = kth_largest(scores, maxima, n, scratch);
  for (size_t b = 0; b < maxima.size(); ++b) {
    if (maxima[b] < bound) continue;
    const size_t begin = b * kScoreBlock, end = std::min<size_t>(begin + kScoreBlock, scores.size());
    for (size_t i = begin; i < end; ++i)
      if (scores[i] >= bound) best.push_back(static_cast<int64_t>(i));
  }
  const auto score = [scores](int64_t place) { return scores[static_cast<size_t>(place)]; };
  // Places ascend, so a stable sort puts lower ones first among equals.
  std::stable_sort(best.begin(), best.end(), [&](int64_t a, int64_t b) { return score(a) > score(b); });
  best.resize(std::min(best.size(), static_cast<size_t>(n)));
  return best;
}

int64_t to_weight(float e) { return shifted_bits(e) - std::bit_cast<int64_t>(kWeightShift); }

int64_t mass_to_reach(double part, int64_t total) {
  return std::clamp(static_cast<int64_t>(std::ceil(part * static_cast<double>(total))), int64_t{1}, total);
}

int64_t total_weight(const float* e, int64_t n) {
  // Unsigned: the bits of 2^14 are taken off once at the end, and the sum may wrap around before that.
  uint64_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<uint64_t>(shifted_bits(e[i]));
  return static_cast<int64_t>(total - static_cast<uint64_t>(n) * std::bit_cast<uint64_t>(kWeightShift));
}

float log_total(const KernelTable& kernels, int64_t total) {
  const float sum = static_cast<float>(std::ldexp(static_cast<double>(total), -kWeightBits));
  float result = 0;
  kernels.log(&sum, 1, &result);
  return result;
}

MassThreshold select_by_mass(std::vector<WeightedKey>& elements, int64_t target) {
  std::vector<WeightedKey> smaller, larger;
  int64_t mass_before = 0;
  for (;;) {
    // Quickselect with masses, the pivot a median of three. No branch looks at a key: none could be predicted.
    const float a = elements.front().key, b = elements[elements.size() / 2].key, c = elements.back().key;
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    smaller.resize(elements.size());
    larger.resize(elements.size());
    size_t num_smaller = 0, num_larger = 0;
    int64_t smaller_mass = 0, equal_mass = 0;
    for (const WeightedKey element : elements) {
      const bool is_smaller = element.key<pivot, is_larger = element.key> pivot;
      smaller[num_smaller] = element;
      larger[num_larger] = element;
      num_smaller += is_smaller;
      num_larger += is_larger;
      smaller_mass += is_smaller ? element.weight : 0;
      equal_mass += is_smaller || is_larger ? 0 : element.weight;
    }
    if (mass_before + smaller_mass >= target) {
      smaller.resize(num_smaller);
      elements.swap(smaller);
    } else if (mass_before + smaller_mass + equal_mass >= target || num_larger == 0) {
      return {pivot, mass_before + smaller_mass};
    } else {
      mass_before += smaller_mass + equal_mass;
      larger.resize(num_larger);
      elements.swap(larger);
    }
  }
}

}  // namespace pythia
