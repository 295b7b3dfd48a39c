// Exact int8 dots with AVX-512 VNNI. Included after vec_avx512.h; see dot_portable.h.
#pragma once

#include <cstdint>

#include "kernels/dot_base.h"
#include "kernels/kernels.h"

namespace pythia {
namespace {

constexpr int kQuantRows = 4;
constexpr int kQuantPanels = 3;

constexpr CodeLayout kCodeLayout = CodeLayout::kInt8;
inline void store_codes(std::byte* p, IVec codes) { store_int8(p, codes); }

inline IVec dot_start(const int32_t* offset) { return set1_i(*offset); }

// Not the intrinsics: GCC 12 copies their accumulator before and after each call.
template <bool kReads = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  if constexpr (kReads) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum.v) : "v"(weights.v), "m"(*reinterpret_cast<const std::byte(*)[4]>(x)));
  } else {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(weights.v), "v"(_mm512_set1_epi32(four)));
  }
  return sum;
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int32_t two;
  __builtin_memcpy(&two, b, sizeof two);
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(_mm512_set1_epi32(two)));
  return sum;
}

}  // namespace
}  // namespace pythia
