// Exact int8 dots with NEON: by the dot product of Armv8.2 where this file is compiled for it, else by products in int16
// (128 * 127 < 2^15), added in pairs to int32. Included after vec_neon.h; see dot_portable.h.
#pragma once

#include <cstdint>

#include "kernels/dot_base.h"
#include "kernels/kernels.h"

namespace pythia {
namespace {

constexpr int kQuantRows = 3;
constexpr int kQuantPanels = 1;

constexpr CodeLayout kCodeLayout = CodeLayout::kInt8;
inline void store_codes(std::byte* p, IVec codes) { store_int8(p, codes); }

inline IVec dot_start(const int32_t* /*offset*/) { return set1_i(kDotBase); }

// sum[i] += the dot of four bytes.
inline int32x4_t dot_quarter(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, w, x);
#else
  const int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x))), hi = vpaddlq_s16(vmull_high_s8(w, x));
  return vaddq_s32(sum, vpaddq_s32(lo, hi));
#endif
}

template <bool /*kReads*/ = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(four));
  const auto dot = [&](int32x4_t start, uint8x16_t codes) {
    return dot_quarter(start, vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(128))), inputs);
  };
  return map<IVec>(dot, sum, weights);
}

inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int32_t two;
  __builtin_memcpy(&two, b, sizeof two);
  const int16x8_t inputs = vreinterpretq_s16_s32(vdupq_n_s32(two));
  const auto dot = [&](int32x4_t start, int32x4_t pairs) {
    const int16x8_t w = vreinterpretq_s16_s32(pairs);
    return vaddq_s32(start, vpaddq_s32(vmull_s16(vget_low_s16(w), vget_low_s16(inputs)), vmull_high_s16(w, inputs)));
  };
  return map<IVec>(dot, sum, a);
}

}  // namespace
}  // namespace pythia
