// The codes of a row of activations, for the quantized matmul. Included through bodies.inl.
#pragma once

#include "kernels/codes.inl"
#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"

namespace pythia {
namespace {

// Groups are measured, and then encoded, four at a time: what follows from the largest magnitude of one is a chain of waits.
// As many have their scales on the stack.
inline constexpr int kGroupsAtOnce = 4;
inline constexpr int64_t kMostMeasured = 8 * kGroupsAtOnce;

struct MeasuredScales {
  alignas(16) float inverse[kMostMeasured];
  alignas(16) float scale[kMostMeasured];
};

// The two vectors of each of some groups that follow each other: whole ones,
static_assert(kQuantGroup == 2 * kLanes);
struct WholeGroups {
  const float* x;
  Vec operator[](int i) const { return load(x + i * kLanes); }
};
// or one that ends after n elements, behind which are zeros.
struct LastGroup {
  const float* x;
  int64_t n;
  Vec operator[](int i) const { return n > i * kLanes ? load_n(x + i * kLanes, n - i * kLanes) : zero(); }
};

// Returns which of the groups are not finite.
template <int kCount, class Groups>
inline Int4 measure_groups(const Groups& x, float* inverse, float* scale) {
  IVec top[kGroupsAtOnce];
  each<kGroupsAtOnce>([&](int g) { top[g] = g < kCount ? max_i(magnitudes(x[2 * g]), magnitudes(x[2 * g + 1])) : set1_i(0); });
  const FourCodeScales four = code_scales(reduce_max_i(top), 127.0f);
  __builtin_memcpy(inverse, &four.inverse, kCount * sizeof(float));
  __builtin_memcpy(scale, &four.scale, kCount * sizeof(float));
  return four.not_finite;
}

template <int kCount, bool kFinite, class Groups>
inline void encode_groups(const Groups& x, const float* inverse, const float* scale, std::byte* to) {
  constexpr int64_t kBytes = quantized_group_bytes(kCodeLayout), kScaleAt = scale_offset_bytes(kCodeLayout);
  IVec sums[kGroupsAtOnce];
  each<kGroupsAtOnce>([&](int g) {
    sums[g] = set1_i(0);
    if (g >= kCount) return;
    const auto encode = [by = set1(inverse[g])](Vec v) { return kFinite ? to_codes(v, by) : to_codes_or_zero(v, by); };
    const IVec a = encode(x[2 * g]), b = encode(x[2 * g + 1]);
    store_codes(to + g * kBytes, a);
    store_codes(to + g * kBytes + kScaleAt / 2, b);
    sums[g] = a + b;
  });
  const Int4 offsets = kDotBase - 128 * reduce_add_i(sums);
  each<kCount>([&](int g) {
    const struct {
      float scale;
      int32_t offset;
    } last = {scale[g], offsets[g]};
    __builtin_memcpy(to + g * kBytes + kScaleAt, &last, sizeof last);
  });
}

// Calls f(count, groups, first) for some groups at a time.
template <class F>
inline void for_groups(const float* x, int64_t n, F f) {
  constexpr int64_t kStep = kGroupsAtOnce * kQuantGroup;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) f(std::integral_constant<int, kGroupsAtOnce>{}, WholeGroups{x + i}, i / kQuantGroup);
  if (const int64_t whole = (n - i) / kQuantGroup; whole > 0) {
    with_constant<kGroupsAtOnce - 1>(whole, [&](auto count) { f(count, WholeGroups{x + i}, i / kQuantGroup); });
    i += whole * kQuantGroup;
  }
  if (i < n) f(std::integral_constant<int, 1>{}, LastGroup{x + i, n - i}, i / kQuantGroup);
}

// The group's largest magnitude maps to 127. Groups are padded with zeros to kQuantGroup.
void quantize_row_kernel(const float* x, int64_t n, std::byte* to) noexcept {
  constexpr int64_t kMost = kMostMeasured * kQuantGroup, kBytes = quantized_group_bytes(kCodeLayout);
  for (; n > 0; x += kMost, n -= kMost, to += kMostMeasured * kBytes) {
    const int64_t here = n < kMost ? n : kMost;
    MeasuredScales scales;
    Int4 not_finite = {};
    for_groups(x, here, [&](auto count, const auto& groups, int64_t g) {
      not_finite |= measure_groups<count()>(groups, scales.inverse + g, scales.scale + g);
    });
    asm("" : "+m"(scales));  // or the compiler would take elements out of vectors instead of reading them
    if (any_of(not_finite)) [[unlikely]]
      for (int64_t g = 0; g * kQuantGroup < here; ++g)
        encode_groups<1, false>(LastGroup{x + g * kQuantGroup, here - g * kQuantGroup}, scales.inverse + g, scales.scale + g,
                                to + g * kBytes);
    else
      for_groups(x, here, [&](auto count, const auto& groups, int64_t g) {
        encode_groups<count(), true>(groups, scales.inverse + g, scales.scale + g, to + g * kBytes);
      });
  }
}

}  // namespace
}  // namespace pythia
