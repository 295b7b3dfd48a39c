// Integer codes of a row or group of floats that share a scale: x is about code * scale. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "quant/float4.h"

namespace pythia {
namespace {

// Magnitudes as integers, which have the same order, and NaN above infinity: a maximum of floats would lose it.
inline IVec magnitudes(Vec x) { return bits(x) & set1_i(INT32_MAX); }

// Rows or groups are measured, and then encoded, so many at a time: what follows from the largest magnitude of one is a chain
// of waits.
inline constexpr int kEncodedAtOnce = 4;

// Codes are round_half_even(x * inverse). Where the largest magnitude is 1e-30 or less,
// all are zero and so is the scale: limit / largest could overflow. Where it is infinite or NaN, all are zero and the scale is
// NaN.
struct CodeScales {
  Float4 inverse;
  Float4 scale;
  Int4 not_finite;  // all ones where the largest magnitude is infinite or NaN: the codes need to_codes_or_zero
};
inline CodeScales code_scales(Int4 largest_magnitudes, Float4 limit) {
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
