// What a softmax needs of a row of logits, without keeping them. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

// exp(x) for x in [kExpLow, 0], with exp2_clamped's error and 1.4e-8 |x| more: log2(e) is rounded. What has much of a softmax's
// sum is not far below 0.
template <int kCount>
inline void exp_of_low(const Vec (&x)[kCount], Vec (&y)[kCount]) {
  const Vec log2e = set1(1.44269502f), magic = set1(kRoundingMagic);
  Vec shifted[kCount];
  each<kCount>([&](int i) { shifted[i] = fma(x[i], log2e, magic); });
  each<kCount>([&](int i) { y[i] = fma(x[i], log2e, magic - shifted[i]); });
  exp2_parts(shifted, y);
}

// The index of the first of n numbers that is not below `bound`; there is one.
inline int32_t first_not_below(const float* x, int64_t n, float bound) {
  const Vec limit = set1(bound);
  const auto found = [&](int64_t i) { return bit_mask(less(load(x + i), limit)) ^ 0xffffu; };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    if (const uint32_t both = found(i) | found(i + kLanes) << kLanes; both != 0)
      return static_cast<int32_t>(i) + __builtin_ctz(both);
  while (i < n - 1 && x[i] < bound) ++i;
  return static_cast<int32_t>(i);
}

LogitSummary summarize_logits_kernel(const float* logits, int64_t n, float bound) noexcept {
  const int64_t whole = n / kLanes * kLanes;
  const Vec lowest = from_bits(set1_i(-8388608));  // -infinity
  const Vec rest = select(first_lanes(n - whole), load_n(logits + whole, n - whole), lowest);

  // Several at a time: a maximum waits for the one before.
  constexpr int kChains = 4;
  Vec top[kChains] = {lowest, lowest, lowest, lowest};
  IVec minus_above = set1_i(0);
  const Vec limit = set1(bound + 0.0f);  // never -0: -0 - 0 is -0
  const auto see = [&](Vec x, Vec& highest) {
    highest = max(x, highest);
    minus_above = minus_above + shift_right<31>(bits(limit - x));  // the sign: nothing is rounded to zero
  };
  int64_t i = 0;
  for (; i + kChains * kLanes <= whole; i += kChains * kLanes)
    for (int chain = 0; chain < kChains; ++chain) see(load(logits + i + chain * kLanes), top[chain]);
  for (; i < whole; i += kLanes) see(load(logits + i), top[0]);
  if (whole < n) see(rest, top[0]);
  LogitSummary summary = {.largest = reduce_max(max(max(top[0], top[1]), max(top[2], top[3])))};

  // Terms below 2^-126 count as that, which changes no bit of a sum that has 1 among its terms.
  const Vec largest = set1(summary.largest);
  Vec sum = zero(), weighted = zero();
  const auto take = [&]<int kCount>(Vec(&below)[kCount]) {
    Vec e[kCount];
    each<kCount>([&](int k) { below[k] = max(below[k] - largest, set1(kExpLow)); });
    exp_of_low(below, e);
    each<kCount>([&](int k) { sum = sum + e[k]; });
    each<kCount>([&](int k) { weighted = fma(e[k], below[k], weighted); });
  };
  for (i = 0; i + kTogether * kLanes <= whole; i += kTogether * kLanes) {
    Vec several[kTogether];
    each<kTogether>([&](int k) { several[k] = load(logits + i + k * kLanes); });
    take(several);
  }
  const auto take_one = [&](Vec x) {
    Vec one[] = {x};
    take(one);
  };
  for (; i < whole; i += kLanes) take_one(load(logits + i));
  if (whole < n) take_one(rest);
  summary.argmax = first_not_below(logits, n, summary.largest);
  summary.sum = reduce_add(sum);
  summary.weighted = reduce_add(weighted);
  summary.above = -reduce_add_i(minus_above);
  return summary;
}

int32_t count_above_kernel(const float* x, int64_t n, float bound) noexcept {
  const Vec limit = set1(bound), one = set1(1.0f);
  Vec count = zero(), second = zero();  // exact: below 2^24
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    count = count + select(less(limit, load(x + i)), one, zero());
    second = second + select(less(limit, load(x + i + kLanes)), one, zero());
  }
  for (; i + kLanes <= n; i += kLanes) count = count + select(less(limit, load(x + i)), one, zero());
  if (i < n) count = count + select(first_lanes(n - i), select(less(limit, load_n(x + i, n - i)), one, zero()), zero());
  count = count + second;
  return static_cast<int32_t>(reduce_add(count));
}

}  // namespace
}  // namespace pythia
