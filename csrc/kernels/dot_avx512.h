// Exact int8 dots with AVX-512BW, in int16 as in dot_avx2.h. Included after vec_avx512.h; see dot_portable.h.
#pragma once

#include <cstdint>

#include "kernels/code_pairs.h"
#include "kernels/dot_base.h"

namespace pythia {
namespace {

constexpr int kQuantRows = 4;
constexpr int kQuantPanels = 3;

inline void store_codes(std::byte* p, IVec codes) { store_code_pairs(p, _mm512_cvtepi32_epi16(codes.v)); }

inline IVec dot_start(const int32_t* offset) { return set1_i(*offset); }

inline __m512i broadcast_pair(const void* p) {
  int32_t two;
  __builtin_memcpy(&two, p, sizeof two);
  return _mm512_set1_epi32(two);
}

// sum[lane] += a[lane][0] * b[lane][0] + a[lane][1] * b[lane][1]; see dot_avx2.h.
inline void add_pair_dots(IVec& sum, __m512i a, __m512i b) {
  __m512i dots;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum.v), "=&v"(dots) : "v"(a), "v"(b));
}

template <bool /*kReads*/ = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  add_pair_dots(sum, _mm512_and_si512(weights.v, _mm512_set1_epi16(255)), broadcast_pair(x));
  add_pair_dots(sum, _mm512_srli_epi16(weights.v, 8), broadcast_pair(x + 4));
  return sum;
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  add_pair_dots(sum, a.v, broadcast_pair(b));
  return sum;
}

}  // namespace
}  // namespace pythia
