// What a softmax needs of a row of logits, without keeping them. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

// The sums of a LogitSummary. Terms of logits more than -kExpLow below the reference count as 2^-126: the row has one of
// about 1.
class SoftmaxSums {
 public:
  explicit SoftmaxSums(Vec reference) : reference_(reference) {}

  // Adds the terms of `logits`, and leaves in them how far they are below the reference. exp(-d) has exp2_clamped's error and
  // 1.4e-8 |d| more: log2(e) is rounded.
  template <int kCount>
  void add(Vec (&logits)[kCount]) {
    const Vec minus_log2e = set1(-1.44269502f), magic = set1(kRoundingMagic);
    Vec below[kCount], shifted[kCount], e[kCount];
    each<kCount>([&](int k) { logits[k] = reference_ - logits[k]; });
    each<kCount>([&](int k) { below[k] = min(logits[k], set1(-kExpLow)); });
    each<kCount>([&](int k) { shifted[k] = fma(below[k], minus_log2e, magic); });
    each<kCount>([&](int k) { e[k] = fma(below[k], minus_log2e, magic - shifted[k]); });
    exp2_parts(shifted, e);
    each<kCount>([&](int k) { sum_ = sum_ + e[k]; });
    each<kCount>([&](int k) { weighted_ = fma(e[k], below[k], weighted_); });
    each<kCount>([&](int k) { squared_ = fma(e[k] * below[k], below[k], squared_); });
  }

  void write_to(LogitSummary& summary) const {
    summary.reference = first_lane(reference_);
    summary.sum = reduce_add(sum_);
    summary.weighted = reduce_add(weighted_);
    summary.squared = reduce_add(squared_);
  }

 private:
  Vec reference_, sum_ = zero(), weighted_ = zero(), squared_ = zero();
};

LogitSummary summarize_logits_kernel(const float* logits, int64_t n, float bound) noexcept {
  constexpr int kCount = kTogether > 4 ? kTogether / 2 : 2;  // at a time: they have sums beside them
  const Vec lowest = minus_infinity();
  const int64_t whole = n / kLanes * kLanes;
  const auto for_each = [&](auto take) {
    int64_t i = 0;
    for (; i + kCount * kLanes <= whole; i += kCount * kLanes) {
      Vec some[kCount];
      each<kCount>([&](int k) { some[k] = load(logits + i + k * kLanes); });
      take(some);
    }
    for (; i < n; i += kLanes) {
      Vec one[] = {i < whole ? load(logits + i) : select(first_lanes(n - i), load_n(logits + i, n - i), lowest)};
      take(one);
    }
  };
  Vec largest[2] = {lowest, lowest};
  IVec minus_above = set1_i(0);
  SoftmaxSums sums(set1(bound + 0.0f));  // never -0: -0 - 0 is -0
  for_each([&]<int kSize>(Vec(&x)[kSize]) {
    each<kSize>([&](int k) { largest[k % 2] = max(x[k], largest[k % 2]); });
    sums.add(x);
    // By their signs: no difference is rounded to zero.
    each<kSize>([&](int k) { minus_above = minus_above + shift_right<31>(bits(x[k])); });
  });
  LogitSummary summary = {.largest = reduce_max(max(largest[0], largest[1])), .above = -reduce_add_i(minus_above)};
  if (summary.largest - bound > kMostAboveReference) {
    sums = SoftmaxSums(set1(summary.largest));
    for_each([&](auto& x) { sums.add(x); });
  }
  sums.write_to(summary);
  return summary;
}

// d + exp(-d) - 1 times P, d = log P - log Q: from exp's own polynomial where d is small, so that it is not lost in rounding.
inline Vec divergence_term(Vec p, Vec q, const LogTotals& totals) {
  const Vec finite_p = max(p, set1(-3.402823466e+38f));
  const Vec d = (finite_p - q) - set1(totals.p_minus_q);
  const Vec p_share = exp((finite_p - set1(totals.p)) - set1(totals.p_rest));
  const Vec q_share = exp((q - set1(totals.q)) - set1(totals.q_rest));
  const Vec near = p_share * ((d * d) * polynomial(kExpPoly, zero() - d));
  const Vec far = fma(p_share, d, q_share - p_share);
  return select(less(zero(), p_share), select(less(abs(d), set1(kHalfLn2)), near, far), q_share);
}

float divergence_kernel(const float* p, const float* q, int64_t n, const LogTotals& totals) noexcept {
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = sum + divergence_term(load(p + i), load(q + i), totals);
  if (i < n) {
    const Vec term = divergence_term(load_n(p + i, n - i), load_n(q + i, n - i), totals);
    sum = sum + select(first_lanes(n - i), term, zero());
  }
  return reduce_add(sum);
}

int64_t first_above_kernel(const float* x, int64_t n, float bound) noexcept {
  const Vec limit = set1(bound);
  const auto found = [&](int64_t i) { return bit_mask(less(limit, load(x + i))); };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    if (const uint32_t both = found(i) | found(i + kLanes) << kLanes; both != 0) return i + __builtin_ctz(both);
  while (i < n - 1 && !(x[i] > bound)) ++i;
  return i;
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
