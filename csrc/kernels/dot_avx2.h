// Exact int8 dots with AVX2: |weight| times the input with the weight's sign, so that pairs cannot saturate int16
// (128 * 127 * 2 < 2^15). Included after vec_avx2.h; see dot_portable.h.
#pragma once

#include <cstdint>

namespace pythia {
namespace {

inline IVec dot_start(const int32_t* /*offset*/) { return set1_i(0); }

inline __m256i dot_half(__m256i sum, __m256i codes, __m256i inputs) {
  const __m256i weights = _mm256_xor_si256(codes, _mm256_set1_epi8(INT8_MIN));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(inputs, weights));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline IVec dot_step(IVec sum, Codes weights, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const __m256i inputs = _mm256_set1_epi32(four);
  return {dot_half(sum.lo, weights.lo, inputs), dot_half(sum.hi, weights.hi, inputs)};
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int32_t two;
  __builtin_memcpy(&two, b, sizeof two);
  const __m256i pair = _mm256_set1_epi32(two);
  return sum + IVec{_mm256_madd_epi16(a.lo, pair), _mm256_madd_epi16(a.hi, pair)};
}

}  // namespace
}  // namespace pythia
