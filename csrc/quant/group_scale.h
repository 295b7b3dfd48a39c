// The search for a group's scale, shared by q8 and q4. Plain float operations in a fixed order: the same scale on every
// machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "quant/elements.h"
#include "quant/packers.h"
#include "quant/weight_format.h"

namespace pythia {

inline constexpr float kMaxScale = 65504.0f * kScaleUnit;

// A group's scale as stored, and what it stands for.
struct StoredScale {
  uint16_t bits = 0;
  float value = 0.0f;
};

inline StoredScale round_scale(float scale) {
  const uint16_t bits = float_to_f16(std::clamp(scale, -kMaxScale, kMaxScale) / kScaleUnit);
  return {bits, f16_to_float(bits) * kScaleUnit};
}

// Adds in eight lanes folded in a fixed order, so that the compiler may use SIMD without choosing the order.
class LaneSum {
 public:
  void add(int64_t i, float x) { lanes_[i % kLanes] += x; }
  float total() const {
    return ((lanes_[0] + lanes_[4]) + (lanes_[2] + lanes_[6])) + ((lanes_[1] + lanes_[5]) + (lanes_[3] + lanes_[7]));
  }

 private:
  static constexpr int64_t kLanes = 8;
  float lanes_[kLanes] = {};
};

// The stored scale with the smallest squared error for the group x[kQuantGroup]. `round_to(x, inverse_scale, levels)` writes
// the levels that stand for x; `candidates` are tried as largest |x| / candidate, of either sign where negative ones are
// listed, and the best one's levels give a last candidate by least squares.
template <class RoundTo, int kCount>
StoredScale search_scale(const float* x, const float (&candidates)[kCount], RoundTo round_to) {
  float largest = 0.0f;
  for (int64_t i = 0; i < kQuantGroup; ++i) largest = std::max(largest, std::fabs(x[i]));
  if (largest == 0.0f) return {};

  StoredScale best;
  float best_error = 0.0f;
  float levels[kQuantGroup], best_levels[kQuantGroup] = {};
  const auto consider = [&](float scale) {
    const StoredScale stored = round_scale(scale);
    if (stored.value == 0.0f) return;
    round_to(x, 1.0f / stored.value, levels);
    LaneSum sum;
    for (int64_t i = 0; i < kQuantGroup; ++i) {
      const float error = x[i] - stored.value * levels[i];
      sum.add(i, error * error);
    }
    if (best.value != 0.0f && !(sum.total() < best_error)) return;
    best = stored;
    best_error = sum.total();
    std::copy_n(levels, kQuantGroup, best_levels);
  };
  for (const float candidate : candidates) consider(largest / candidate);

  LaneSum product, square;
  for (int64_t i = 0; i < kQuantGroup; ++i) {
    product.add(i, x[i] * best_levels[i]);
    square.add(i, best_levels[i] * best_levels[i]);
  }
  if (square.total() > 0.0f) consider(product.total() / square.total());
  return best;
}

// The first value of the block that no scale can reach, or none.
inline Unpackable find_unquantizable(const float* values, int64_t inputs, float largest_level) {
  for (int64_t output = 0; output < kPanelWidth; ++output)
    for (int64_t i = 0; i < inputs; ++i)
      if (!(std::fabs(values[output * kBlockInputs + i]) <= kMaxScale * largest_level)) return {output, i};
  return {};
}

}  // namespace pythia
