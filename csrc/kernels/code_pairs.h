// Activations' codes for dots in int16 (CodeLayout::kInt16Pairs), as AVX2 and AVX-512BW store them.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kernels/kernels.h"

namespace pythia {
namespace {

constexpr CodeLayout kCodeLayout = CodeLayout::kInt16Pairs;

// Sixteen codes, given in order.
inline void store_code_pairs(std::byte* p, __m256i codes) {
  constexpr int kSwapMiddle = 0xd8;  // 0, 2, 1, 3
  const __m256i pairs = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(codes, kSwapMiddle), kSwapMiddle);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), pairs);
}

}  // namespace
}  // namespace pythia
