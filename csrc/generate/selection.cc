#include "generate/selection.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace pythia {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int64_t kLanes = 16;  // enough independent maxima for any vector width

// 2^14 as a double has its unit in the last place at 2^-38, so e + 2^14 has round_half_even(2^38 e) in its low bits.
static_assert(kWeightBits == 38);
constexpr double kWeightShift = 16384.0;

int64_t shifted_bits(float e) { return std::bit_cast<int64_t>(static_cast<double>(e) + kWeightShift); }

}  // namespace

float max_score(const float* x, int64_t n) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, kLowest);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; ++j) lanes[j] = lanes[j + width] > lanes[j] ? lanes[j + width] : lanes[j];
  return lanes[0];
}

float block_maxima(std::span<const float> scores, std::vector<float>& maxima) {
  const int64_t n = static_cast<int64_t>(scores.size());
  maxima.resize(static_cast<size_t>((n + kScoreBlock - 1) / kScoreBlock));
  float largest = kLowest;
  for (size_t b = 0; b < maxima.size(); ++b) {
    const int64_t begin = static_cast<int64_t>(b) * kScoreBlock;
    maxima[b] = max_score(scores.data() + begin, std::min(kScoreBlock, n - begin));
    largest = std::max(largest, maxima[b]);
  }
  return largest;
}

int64_t argmax(std::span<const float> scores) {
  const int64_t n = static_cast<int64_t>(scores.size());
  int64_t best_block = -1;
  float largest = kLowest;
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    const float block = max_score(scores.data() + begin, std::min(kScoreBlock, n - begin));
    if (block > largest) largest = block, best_block = begin;
  }
  if (best_block < 0) return -1;
  return std::find(scores.begin() + best_block, scores.end(), largest) - scores.begin();
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
    const size_t begin = b * kScoreBlock, end = std::min(begin + kScoreBlock, scores.size());
    for (size_t i = begin; i < end; ++i)
      if (scores[i] >= bound) scratch.push_back(scores[i]);
  }
  if (k > static_cast<int64_t>(scratch.size())) return kLowest;  // only with NaN among the scores
  std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<>());
  return scratch[static_cast<size_t>(k - 1)];
}

int64_t to_weight(float e) { return shifted_bits(e) - std::bit_cast<int64_t>(kWeightShift); }

int64_t total_weight(const float* e, int64_t n) {
  // Unsigned: the bits of 2^14 are taken off once at the end, and the sum may wrap around before that.
  uint64_t total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<uint64_t>(shifted_bits(e[i]));
  return static_cast<int64_t>(total - static_cast<uint64_t>(n) * std::bit_cast<uint64_t>(kWeightShift));
}

MassThreshold select_by_mass(std::span<WeightedKey> elements, int64_t target) {
  int64_t mass_before = 0;
  for (;;) {
    // Median of three as the pivot; then [smaller | equal | greater], as in quickselect, with the masses of the parts.
    const float a = elements.front().key, b = elements[elements.size() / 2].key, c = elements.back().key;
    const float pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));
    size_t equal_begin = 0, equal_end = 0;
    int64_t smaller_mass = 0, equal_mass = 0;
    for (size_t i = 0; i < elements.size(); ++i) {
      const WeightedKey element = elements[i];
      if (element.key > pivot) continue;
      elements[i] = elements[equal_end];
      if (element.key < pivot) {
        elements[equal_end] = elements[equal_begin];
        elements[equal_begin++] = element;
        smaller_mass += element.weight;
      } else {
        elements[equal_end] = element;
        equal_mass += element.weight;
      }
      ++equal_end;
    }
    if (mass_before + smaller_mass >= target) {
      elements = elements.first(equal_begin);
    } else if (mass_before + smaller_mass + equal_mass >= target || equal_end == elements.size()) {
      return {pivot, mass_before + smaller_mass};
    } else {
      mass_before += smaller_mass + equal_mass;
      elements = elements.subspan(equal_end);
    }
  }
}

}  // namespace pythia
