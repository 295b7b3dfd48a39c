// The search for the groups' scales, shared by q8 and q4. Plain float operations in a fixed order: the same scales on every
// machine. Groups of several outputs are searched at once, an output in each lane, so that the compiler can use SIMD and no
// sum runs over lanes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "quant/elements.h"
#include "quant/float4.h"
#include "quant/packers.h"
#include "quant/weight_format.h"

namespace pythia {

inline constexpr float kMaxScale = 65504.0f * kScaleUnit;

inline constexpr int64_t kLaneParts = 2;                // enough that sums of one part hide those of the other
inline constexpr int64_t kGroupLanes = 4 * kLaneParts;  // outputs searched at once
static_assert(kPanelWidth % kGroupLanes == 0);

// One float of each of kGroupLanes groups.
using Lanes = std::array<Float4, kLaneParts>;

// Inputs [begin, begin + kQuantGroup) of kGroupLanes outputs, from rows of kBlockInputs values.
struct GroupValues {
  std::array<Lanes, kQuantGroup> x;

  explicit GroupValues(const float* rows) {
    for (int64_t i = 0; i < kQuantGroup; ++i)
      for (int64_t part = 0; part < kLaneParts; ++part) {
        const float* first = rows + 4 * part * kBlockInputs + i;
        x[i][part] = Float4{first[0], first[kBlockInputs], first[2 * kBlockInputs], first[3 * kBlockInputs]};
      }
  }
};

// The nearest value that is stored exactly: an IEEE half in units of kScaleUnit, ties to even.
inline Float4 round_scale(Float4 scale) {
  const Float4 half = max4(min4(scale, splat4(kMaxScale)), splat4(-kMaxScale)) * (1.0f / kScaleUnit);
  const Int4 bits = std::bit_cast<Int4>(half);
  const Float4 normal = std::bit_cast<Float4>((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
  const Float4 subnormal = (half + 0.75f) - 0.75f;  // floats from 0.5 to 1 are as far apart as the halves below 2^-14
  return (abs4(half) < 0x1p-14f ? subnormal : normal) * kScaleUnit;
}

inline uint16_t scale_bits(float rounded_scale) { return float_to_f16(rounded_scale / kScaleUnit); }

// 1 / scale, or 0 for a scale of 0.
inline Float4 invert_scale(Float4 scale) { return scale == 0.0f ? splat4(0.0f) : 1.0f / scale; }

// The stored scales with the smallest squared errors for the groups. `nearest(y)` is the level that stands for y, a value
// divided by its scale; `candidates` are tried in order as largest |x| / candidate, of either sign where negative ones are
// listed, and the best one's levels give a last candidate by least squares. A group of zeros has scale 0.
template <class Nearest, int kCount>
Lanes search_scales(const GroupValues& group, const float (&candidates)[kCount], Nearest nearest) {
  Lanes largest = {};
  for (const Lanes& x : group.x)
    for (int64_t part = 0; part < kLaneParts; ++part) largest[part] = max4(largest[part], abs4(x[part]));

  Lanes best = {}, best_error = {};
  const auto consider = [&](const Lanes& candidate) {
    Lanes scale, inverse, sum = {};
    for (int64_t part = 0; part < kLaneParts; ++part) {
      scale[part] = round_scale(candidate[part]);
      inverse[part] = invert_scale(scale[part]);
    }
    for (const Lanes& x : group.x)
      for (int64_t part = 0; part < kLaneParts; ++part) {
        const Float4 y = x[part] * inverse[part];
        const Float4 error = y - nearest(y);
        sum[part] += error * error;
      }
    for (int64_t part = 0; part < kLaneParts; ++part) {
      const Float4 error = scale[part] * scale[part] * sum[part];
      const Int4 better = (scale[part] != 0.0f) & ((best[part] == 0.0f) | (error < best_error[part]));
      best[part] = better ? scale[part] : best[part];
      best_error[part] = better ? error : best_error[part];
    }
  };
  for (const float candidate : candidates) consider({largest[0] / candidate, largest[1] / candidate});

  Lanes inverse, product = {}, square = {};
  for (int64_t part = 0; part < kLaneParts; ++part) inverse[part] = invert_scale(best[part]);
  for (const Lanes& x : group.x)
    for (int64_t part = 0; part < kLaneParts; ++part) {
      const Float4 level = nearest(x[part] * inverse[part]);
      product[part] += x[part] * level;
      square[part] += level * level;
    }
  for (int64_t part = 0; part < kLaneParts; ++part) product[part] *= invert_scale(square[part]);
  consider(product);
  return best;
}

// The first value of the block that no scale can reach, or none.
inline Unpackable find_unquantizable(const float* values, int64_t inputs, float largest_level) {
  for (int64_t output = 0; output < kPanelWidth; ++output) {
    const float* row = values + output * kBlockInputs;
    int32_t beyond = 0;
    for (int64_t i = 0; i < inputs; ++i) beyond |= !(std::fabs(row[i]) <= kMaxScale * largest_level);
    for (int64_t i = 0; beyond != 0; ++i)
      if (!(std::fabs(row[i]) <= kMaxScale * largest_level)) return {output, i};
  }
  return {};
}

}  // namespace pythia
