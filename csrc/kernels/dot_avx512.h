// Exact int8 dots with AVX-512BW: as dot_avx2.h, the sign by a mask. Included after vec_avx512.h; see dot_portable.h.
#pragma once

#include <cstdint>

namespace pythia {
namespace {

inline IVec dot_start(const int32_t* /*offset*/) { return set1_i(0); }

inline IVec dot_step(IVec sum, Codes weights, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const __m512i inputs = _mm512_set1_epi32(four);
  const __m512i values = _mm512_xor_si512(weights.v, _mm512_set1_epi8(INT8_MIN));
  const __m512i with_sign = _mm512_mask_sub_epi8(inputs, _mm512_movepi8_mask(values), _mm512_setzero_si512(), inputs);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(values), with_sign);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int32_t two;
  __builtin_memcpy(&two, b, sizeof two);
  return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(a.v, _mm512_set1_epi32(two)))};
}

}  // namespace
}  // namespace pythia
