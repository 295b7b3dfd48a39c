// The search for the groups' scales, shared by q8 and q4. Plain float operations in a fixed order: the same scales on every
// machine. Groups of several outputs are searched at once, an output in each lane, so that the compiler can use SIMD and no
// sum runs over lanes.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "quant/float4.h"
#include "quant/packers.h"
#include "quant/weight_format.h"

namespace pythia {

// Outputs whose weights are all smaller than this are stored as zeros; larger weights than its inverse are refused. So no
// operation on scales meets an infinity or a subnormal.
inline constexpr float kSmallestQuantized = 0x1p-100f, kLargestQuantized = 0x1p+100f;

inline constexpr int64_t kLaneParts = 2;                // enough that sums of one part hide those of the other
inline constexpr int64_t kGroupLanes = 4 * kLaneParts;  // outputs searched at once
static_assert(kPanelWidth % kGroupLanes == 0);

// One float of each of kGroupLanes groups.
using Lanes = std::array<Float4, kLaneParts>;

inline Lanes load_lanes(const float* values) {
  Lanes lanes;
  std::memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

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

// 1 / scale, or 0 for a scale of 0.
inline Float4 invert_scale(Float4 scale) { return scale == 0.0f ? splat4(0.0f) : 1.0f / scale; }

// What a format's scales are chosen from.
struct ScaleChoice {
  float largest_level;  // in magnitude
  float most, fewest;   // multiples of the output's unit
  float finest;         // the least magnitude that a group's largest weight may get, in levels
};

// An output's unit: the widest scale that the search tries for the group of its largest weight is `most` units.
inline float choose_unit(float largest, const ScaleChoice& choice) {
  return largest < kSmallestQuantized ? 0.0f : largest / (choice.finest * choice.most);
}

// The units of a packed panel's sixteen outputs. Panels are 64-byte aligned, and so are these.
template <WeightFormat kFormat, class Byte>
auto* units_of(Byte* panel, int64_t inputs) {
  using Float = std::conditional_t<std::is_const_v<Byte>, const float, float>;
  return reinterpret_cast<Float*>(panel + units_offset_bytes(kFormat, inputs));
}

template <WeightFormat kFormat>
void start_units(std::byte* panel, int64_t inputs, const float* largest, const ScaleChoice& choice) {
  float* units = units_of<kFormat>(panel, inputs);
  for (int64_t output = 0; output < kPanelWidth; ++output) units[output] = choose_unit(largest[output], choice);
}

// A group's scale is multiple * unit.
struct GroupScales {
  Lanes multiple, scale;
};

// The multiples of the outputs' units that have the smallest squared errors for the groups. `nearest(y)` is the level that
// stands for y, a value divided by its scale. Tried in order are the next multiple above largest |x| / choice.largest_level
// (and its negative, where there are such), so that none but a group of zeros has scale 0; largest |x| / divisor for
// `divisors`, of either sign; and at last the scale that suits the levels of the best one by least squares.
template <class Nearest, int kCount>
GroupScales search_scales(const GroupValues& group, const Lanes& unit, const ScaleChoice& choice,
                          const float (&divisors)[kCount], Nearest nearest) {
  Lanes largest = {}, inverse_unit;
  for (const Lanes& x : group.x)
    for (int64_t part = 0; part < kLaneParts; ++part) largest[part] = max4(largest[part], abs4(x[part]));
  for (int64_t part = 0; part < kLaneParts; ++part) inverse_unit[part] = invert_scale(unit[part]);

  Lanes best = {}, best_error = {};
  const auto consider = [&](const Lanes& candidate) {  // in units, integral
    Lanes inverse, sum = {};
    for (int64_t part = 0; part < kLaneParts; ++part) inverse[part] = invert_scale(candidate[part] * unit[part]);
    for (const Lanes& x : group.x)
      for (int64_t part = 0; part < kLaneParts; ++part) {
        const Float4 y = x[part] * inverse[part];
        const Float4 error = y - nearest(y);
        sum[part] += error * error;
      }
    for (int64_t part = 0; part < kLaneParts; ++part) {
      const Float4 error = candidate[part] * candidate[part] * sum[part];
      const Int4 better = (candidate[part] != 0.0f) & ((best[part] == 0.0f) | (error < best_error[part]));
      best[part] = better ? candidate[part] : best[part];
      best_error[part] = better ? error : best_error[part];
    }
  };
  const auto confine = [&](Float4 units) { return max4(min4(units, splat4(choice.most)), splat4(choice.fewest)); };
  const auto consider_nearest = [&](const Lanes& scale) {
    Lanes candidate;
    for (int64_t part = 0; part < kLaneParts; ++part) candidate[part] = confine(round4(scale[part] * inverse_unit[part]));
    consider(candidate);
  };

  Lanes above;
  for (int64_t part = 0; part < kLaneParts; ++part) {
    const Float4 units = largest[part] / choice.largest_level * inverse_unit[part], rounded = round4(units);
    above[part] = confine(rounded < units ? rounded + 1.0f : rounded);
  }
  consider(above);
  if (choice.fewest < 0.0f) consider({-above[0], -above[1]});
  for (const float divisor : divisors) consider_nearest({largest[0] / divisor, largest[1] / divisor});

  Lanes inverse, product = {}, square = {};
  for (int64_t part = 0; part < kLaneParts; ++part) inverse[part] = invert_scale(best[part] * unit[part]);
  for (const Lanes& x : group.x)
    for (int64_t part = 0; part < kLaneParts; ++part) {
      const Float4 level = nearest(x[part] * inverse[part]);
      product[part] += x[part] * level;
      square[part] += level * level;
    }
  for (int64_t part = 0; part < kLaneParts; ++part) product[part] *= invert_scale(square[part]);
  consider_nearest(product);
  return {best, {best[0] * unit[0], best[1] * unit[1]}};
}

// The first value of the block that is not finite or too large, or none.
inline Unpackable find_unquantizable(const float* values, int64_t inputs) {
  for (int64_t output = 0; output < kPanelWidth; ++output) {
    const float* row = values + output * kBlockInputs;
    int32_t beyond = 0;
    for (int64_t i = 0; i < inputs; ++i) beyond |= !(std::fabs(row[i]) <= kLargestQuantized);
    for (int64_t i = 0; beyond != 0; ++i)
      if (!(std::fabs(row[i]) <= kLargestQuantized)) return {output, i};
  }
  return {};
}

}  // namespace pythia
