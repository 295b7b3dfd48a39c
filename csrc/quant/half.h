// IEEE half to float32, as processors do it. Plain, for kernels too.
#pragma once

#include <bit>
#include <cstdint>

namespace pythia {
namespace {

// Every half is a float; NaN keeps its payload and becomes quiet. Exact, so in any floating-point mode.
constexpr float f16_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31, mantissa = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa ? 0x400000u | (mantissa << 13) : 0u));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace
}  // namespace pythia
