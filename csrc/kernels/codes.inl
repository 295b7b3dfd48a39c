// Integer codes of a row or group of floats that share a scale: x is about code * scale. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"

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

}  // namespace
}  // namespace pythia
