// Exact int8 dots with AVX2, in int16: vpmaddwd multiplies pairs and adds the two. Weight codes widen to their even and their
// odd bytes, so activations' codes lie as int16 in the same pairs. Included after vec_avx2.h; see dot_portable.h.
#pragma once

#include <cstdint>

#include "kernels/code_pairs.h"
#include "kernels/dot_base.h"

namespace pythia {
namespace {

constexpr int kQuantRows = 4;
constexpr int kQuantPanels = 1;

inline void store_codes(std::byte* p, IVec codes) { store_code_pairs(p, to_words(codes)); }

inline IVec dot_start(const int32_t* offset) { return set1_i(*offset); }

inline __m256i broadcast_pair(const void* p) {
  int32_t two;
  __builtin_memcpy(&two, p, sizeof two);
  return _mm256_set1_epi32(two);
}

// sum[lane] += a[lane][0] * b[lane][0] + a[lane][1] * b[lane][1]. Not the intrinsics: GCC 12 makes many products before it adds
// the first, and has no registers for them.
inline void add_pair_dots(__m256i& sum, __m256i a, __m256i b) {
  __m256i dots;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(dots) : "x"(a), "x"(b));
}

template <bool /*kReads*/ = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  const __m256i even = broadcast_pair(x), odd = broadcast_pair(x + 4);
  const auto add_half = [&](__m256i& half, __m256i codes) {
    add_pair_dots(half, _mm256_and_si256(codes, _mm256_set1_epi16(255)), even);
    add_pair_dots(half, _mm256_srli_epi16(codes, 8), odd);
  };
  add_half(sum.lo, weights.lo);
  add_half(sum.hi, weights.hi);
  return sum;
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  const __m256i pair = broadcast_pair(b);
  add_pair_dots(sum.lo, a.lo, pair);
  add_pair_dots(sum.hi, a.hi, pair);
  return sum;
}

}  // namespace
}  // namespace pythia
