// Exact int8 dots with AVX-VNNI. Included after vec_avx2.h; see dot_portable.h.
#pragma once

#include <cstdint>

#include "kernels/dot_base.h"
#include "kernels/kernels.h"

namespace pythia {
namespace {

constexpr int kQuantRows = 5;
constexpr int kQuantPanels = 1;

constexpr CodeLayout kCodeLayout = CodeLayout::kInt8;
inline void store_codes(std::byte* p, IVec codes) { store_int8(p, codes); }

inline IVec dot_start(const int32_t* offset) { return set1_i(*offset); }

template <bool /*kReads*/ = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const __m256i inputs = _mm256_set1_epi32(four);
  // Not the intrinsic: GCC 12 copies its accumulator before and after each call.
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.lo) : "x"(weights.lo), "x"(inputs));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.hi) : "x"(weights.hi), "x"(inputs));
  return sum;
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int32_t two;
  __builtin_memcpy(&two, b, sizeof two);
  const __m256i pair = _mm256_set1_epi32(two);
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum.lo) : "x"(a.lo), "x"(pair));
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum.hi) : "x"(a.hi), "x"(pair));
  return sum;
}

}  // namespace
}  // namespace pythia
