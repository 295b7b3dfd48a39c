// IEEE half and bfloat16 to and from float32: the same bits on every CPU, in any floating-point mode.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "quant/half.h"
#include "quant/weight_format.h"

namespace pythia {

// Rounds half to even; magnitudes from 65520 on become infinity, NaN stays NaN (quiet).
constexpr uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) {  // at least 2^-14: a normal half; rounding may carry into the exponent, up to infinity
    const uint32_t rebased = magnitude - (112u << 23);
    return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
  }
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);  // below 2^-25, half the smallest half
  const uint32_t shift = 126u - (magnitude >> 23);                  // 14..24
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t quotient = mantissa >> shift;
  const uint32_t remainder = mantissa & ((1u << shift) - 1u);
  const uint32_t tie = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (quotient + (remainder > tie || (remainder == tie && (quotient & 1u) != 0))));
}

constexpr float bf16_to_float(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Rounds half to even; the largest floats become infinity, NaN stays NaN (quiet).
constexpr uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

constexpr bool is_finite(float value) { return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u; }

// n elements of f32, f16 or bf16 to float32, exactly. `source` needs no alignment.
void elements_to_float(WeightFormat dtype, const std::byte* source, int64_t n, float* out) noexcept;

// n floats to f32, f16 or bf16, rounding half to even. Returns the index of the first finite value that became infinity, or -1.
int64_t elements_from_float(WeightFormat dtype, const float* source, int64_t n, std::byte* out) noexcept;

}  // namespace pythia
