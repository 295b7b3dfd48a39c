// Fused multiply-add, correctly rounded, on machines without the instruction.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace pythia {
namespace {

// a * b + c rounded once. Without hardware support: the product is exact in double, the sum is rounded to odd (Boldo and
// Melquiond, "Emulation of FMA and correctly rounded sums", 2008), so that rounding it to float is the only rounding.
inline float fma_exact(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return std::fma(a, b, c);
#else
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  const double sum = product + addend;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (addend - back);  // Knuth's TwoSum; NaN where the sum is not finite
  const int64_t bits = std::bit_cast<int64_t>(sum);
  const bool inexact = error < 0.0 || error > 0.0;
  const int64_t away = ((error > 0.0) == (sum > 0.0)) ? 1 : -1;
  const int64_t odd = bits + ((inexact && (bits & 1) == 0) ? away : 0);
  return static_cast<float>(std::bit_cast<double>(odd));
#endif
}

}  // namespace
}  // namespace pythia
