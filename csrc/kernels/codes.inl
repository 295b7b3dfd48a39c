// Integer codes of a row or group of floats that share a scale: x is about code * scale. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "quant/float4.h"

namespace pythia {
namespace {

// Magnitudes as integers, which have the same order, and NaN above infinity: a maximum of floats would lose it.
inline IVec magnitudes(Vec x) { return bits(x) & set1_i(INT32_MAX); }
inline float largest_of(IVec magnitudes) { return __builtin_bit_cast(float, reduce_max_i(magnitudes)); }

// Codes are round_half_even(x * inverse). Where the largest magnitude is 1e-30 or less, all are zero and so is the scale:
// limit / largest could overflow. Where it is infinite or NaN, all are zero and the scale is NaN.
struct CodeScale {
  float inverse;
  float scale;
  int32_t kept_bits;  // of each x
};
inline CodeScale code_scale(float largest, float limit) {
  if (largest > 1e-30f && largest < __builtin_inff()) return {limit / largest, largest / limit, -1};
  return {0.0f, largest <= 1e-30f ? 0.0f : __builtin_nanf(""), 0};
}
inline IVec to_codes(Vec x, const CodeScale& scale) {
  return round_to_int(from_bits(bits(x) & set1_i(scale.kept_bits)) * set1(scale.inverse));
}

// The same of four rows or groups at once, without kept bits.
struct FourCodeScales {
  Float4 inverse;
  Float4 scale;
  Int4 not_finite;  // all ones where the largest magnitude is infinite or NaN: the codes need to_codes_or_zero
};
inline FourCodeScales code_scales(Int4 largest_magnitudes, float limit) {
  const auto largest = __builtin_bit_cast(Float4, largest_magnitudes);
  const Int4 not_finite = largest_magnitudes >= 0x7f800000;
  const Int4 used = (largest > 1e-30f) & ~not_finite;
  const auto where = [](Int4 mask, Float4 x) { return __builtin_bit_cast(Int4, x) & mask; };
  return {.inverse = __builtin_bit_cast(Float4, where(used, limit / largest)),
          .scale = __builtin_bit_cast(Float4, where(used, largest / limit) | where(not_finite, Float4{} + __builtin_nanf(""))),
          .not_finite = not_finite};
}
inline bool any_of(Int4 mask) {
  struct Halves {
    uint64_t low, high;
  };
  const auto halves = __builtin_bit_cast(Halves, mask);
  return (halves.low | halves.high) != 0;
}
inline IVec to_codes(Vec x, Vec inverse) { return round_to_int(x * inverse); }
inline IVec to_codes_or_zero(Vec x, Vec inverse) { return to_codes(select(less(zero(), inverse), x, zero()), inverse); }

}  // namespace
}  // namespace pythia
