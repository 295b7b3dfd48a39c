// Operations on one row: LayerNorm, rotary embedding, addition, widening. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

// Sums run over 16 virtual lanes (element i in lane i mod 16), folded by reduce_add's tree.
template <class F>
inline float sum_lanes(const float* x, int64_t n, F f) {
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = f(sum, load(x + i));
  if (i < n) {
    const Vec next = f(sum, load_n(x + i, n - i));
    sum = select(first_lanes(n - i), next, sum);
  }
  return reduce_add(sum);
}

void layer_norm_kernel(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y) noexcept {
  const float count = static_cast<float>(n);
  const float mean = sum_lanes(x, n, [](Vec sum, Vec v) { return sum + v; }) / count;
  const Vec center = set1(mean);
  const float variance = sum_lanes(x, n, [&](Vec sum, Vec v) { return fma(v - center, v - center, sum); }) / count;
  const Vec inverse = set1(1.0f / __builtin_sqrtf(variance + eps));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, fma((load(x + i) - center) * inverse, load(weight + i), load(bias + i)));
  if (i < n) {
    const int64_t left = n - i;
    const Vec normed = (load_n(x + i, left) - center) * inverse;
    store_n(y + i, fma(normed, load_n(weight + i, left), load_n(bias + i, left)), left);
  }
}

void rotary_kernel(float* x, const float* cos, const float* sin, int64_t half) noexcept {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t n = half - i < kLanes ? half - i : kLanes;
    const Vec first = load_n(x + i, n), second = load_n(x + half + i, n), c = load_n(cos + i, n), s = load_n(sin + i, n);
    store_n(x + i, first * c - second * s, n);
    store_n(x + half + i, second * c + first * s, n);
  }
}

void add_kernel(const float* a, const float* b, int64_t n, float* y) noexcept {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(a + i) + load(b + i));
  if (i < n) store_n(y + i, load_n(a + i, n - i) + load_n(b + i, n - i), n - i);
}

void to_float_kernel(WeightFormat format, const void* source, int64_t n, float* y) noexcept {
  if (format == WeightFormat::kF32) {
    __builtin_memcpy(y, source, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const auto widen = [format](const void* p) { return format == WeightFormat::kF16 ? load_f16(p) : load_bf16(p); };
  const auto* halves = static_cast<const uint16_t*>(source);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, widen(halves + i));
  if (i < n) {
    uint16_t last[kLanes] = {};
    __builtin_memcpy(last, halves + i, static_cast<size_t>(n - i) * sizeof(uint16_t));
    store_n(y + i, widen(last), n - i);
  }
}

}  // namespace
}  // namespace pythia
