#include "quant/elements.h"

#include <cstring>

namespace pythia {
namespace {

template <uint16_t (*kConvert)(float), uint16_t kInfinity>
int64_t narrow(const float* source, int64_t n, std::byte* out) noexcept {
  int64_t overflow = -1;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t value = kConvert(source[i]);
    if ((value & 0x7fffu) == kInfinity && is_finite(source[i]) && overflow < 0) overflow = i;
    std::memcpy(out + 2 * i, &value, 2);
  }
  return overflow;
}

template <float (*kConvert)(uint16_t)>
void widen(const std::byte* source, int64_t n, float* out) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t value;
    std::memcpy(&value, source + 2 * i, 2);
    out[i] = kConvert(value);
  }
}

}  // namespace

void elements_to_float(WeightFormat dtype, const std::byte* source, int64_t n, float* out) noexcept {
  if (dtype == WeightFormat::kF16) {
    widen<f16_to_float>(source, n, out);
  } else if (dtype == WeightFormat::kBF16) {
    widen<bf16_to_float>(source, n, out);
  } else if (n > 0) {
    std::memcpy(out, source, static_cast<std::size_t>(n) * sizeof(float));
  }
}

int64_t elements_from_float(WeightFormat dtype, const float* source, int64_t n, std::byte* out) noexcept {
  if (dtype == WeightFormat::kF16) return narrow<float_to_f16, 0x7c00>(source, n, out);
  if (dtype == WeightFormat::kBF16) return narrow<float_to_bf16, 0x7f80>(source, n, out);
  if (n > 0) std::memcpy(out, source, static_cast<std::size_t>(n) * sizeof(float));
  return -1;
}

}  // namespace pythia
