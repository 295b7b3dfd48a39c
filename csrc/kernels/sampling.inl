// What choosing a token needs of a row of scores. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

void block_maxima_kernel(const float* x, int64_t n, float* maxima) noexcept {
  const Vec lowest = from_bits(set1_i(-8388608));  // -infinity
  for (; n >= kScoreBlock; x += kScoreBlock, n -= kScoreBlock) {
    // A NaN compares as the smaller one here: max gives its second operand.
    Vec even = max(load(x), lowest), odd = max(load(x + kLanes), lowest);
    for (int64_t i = 2 * kLanes; i < kScoreBlock; i += 2 * kLanes) {
      even = max(load(x + i), even);
      odd = max(load(x + i + kLanes), odd);
    }
    *maxima++ = reduce_max(max(even, odd));
  }
  if (n == 0) return;
  Vec top = lowest;
  for (int64_t i = 0; i < n; i += kLanes) top = max(select(first_lanes(n - i), load_n(x + i, n - i), lowest), top);
  *maxima = reduce_max(top);
}

int64_t collect_above_kernel(const float* scores, int64_t n, const float* maxima, float bound, int32_t* ids,
                             float* found_scores) noexcept {
  const Vec limit = set1(bound);
  int64_t count = 0;
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    if (!(maxima[begin / kScoreBlock] > bound)) continue;
    const int64_t end = begin + kScoreBlock < n ? begin + kScoreBlock : n;
    for (int64_t i = begin; i < end; i += kLanes) {
      const Vec x = i + kLanes <= end ? load(scores + i) : load_n(scores + i, end - i);
      uint32_t found = bit_mask(less(limit, x));
      if (i + kLanes > end) found &= (1u << (end - i)) - 1u;
      for (; found != 0; found &= found - 1) {
        const int64_t id = i + __builtin_ctz(found);
        ids[count] = static_cast<int32_t>(id);
        found_scores[count++] = scores[id];
      }
    }
  }
  return count;
}

// 2^f = 1 + f P(f), |f| <= 1/2.
inline constexpr float kWeightPoly[] = {6.93147e-01f, 2.4022242e-01f, 5.5507336e-02f, 9.671513e-03f, 1.3264721e-03f};

// 2^((score - largest) steepness) for scores up to the largest, times 2^kShift. Exponents end at -40, where weights are zero;
// NaN is taken there too.
template <int kShift>
class SoftmaxTerm {
 public:
  explicit SoftmaxTerm(SoftmaxScale scale)
      : largest_(set1(scale.largest)), steepness_(set1(scale.steepness)), lowest_(set1(-40.0f / scale.steepness)) {}

  Vec operator()(Vec score) const {
    const Vec below = max(score - largest_, lowest_), magic = set1(kRoundingMagic + static_cast<float>(kShift));
    const Vec shifted = fma(below, steepness_, magic);  // its low bits are the exponent
    const Vec fraction = fma(below, steepness_, magic - shifted);
    const Vec p = fma(polynomial(kWeightPoly, fraction), fraction, set1(1.0f));
    return from_bits(bits(p) + shift_left<23>(bits(shifted)));
  }

 private:
  Vec largest_, steepness_, lowest_;
};

// Adds up round_half_even(2^38 e) for e in [0, 1], given as 2^17 e = high + rest, which both are exact.
class WeightSum {
 public:
  static constexpr int kShift = 17;  // of the SoftmaxTerm

  // At most 64 times, so that the lanes of high_ do not pass 2^24.
  void add(Vec scaled) {
    const Vec high = high_ + scaled;
    const Vec rest = scaled - (high - high_);  // at most 1/2
    high_ = high;
    low_ = low_ + bits(rest + set1(kLowStart));  // adds round_half_even(2^21 rest) to the start's bits
    ++additions_;
  }

  int64_t total() const {
    const IVec low = low_ - set1_i(static_cast<int32_t>(additions_ * kLowStartBits));
    return reduce_add_i(to_int(high_ - set1(kHighStart))) * (int64_t{1} << 21) + reduce_add_i(low);
  }

 private:
  static_assert(kWeightBits == 38 && kSoftmaxChunk <= 64 * kLanes);
  static constexpr float kHighStart = 8388608.0f;        // 2^23, from where the unit in the last place is 1
  static constexpr float kLowStart = 6.0f;               // around it the unit in the last place is 2^-21
  static constexpr uint32_t kLowStartBits = 0x40c00000;  // of kLowStart
  Vec high_ = set1(kHighStart);
  IVec low_ = set1_i(0);
  uint32_t additions_ = 0;
};

void softmax_totals_kernel(const float* scores, int64_t n, SoftmaxScale scale, int64_t* totals) noexcept {
  const SoftmaxTerm<WeightSum::kShift> term(scale);
  for (; n > 0; scores += kSoftmaxChunk, n -= kSoftmaxChunk) {
    const int64_t size = n < kSoftmaxChunk ? n : kSoftmaxChunk;
    WeightSum sum;
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) sum.add(term(load(scores + i)));
    if (i < size) sum.add(select(first_lanes(size - i), term(load_n(scores + i, size - i)), zero()));
    *totals++ = sum.total();
  }
}

int64_t softmax_total_above_kernel(const float* scores, int64_t n, SoftmaxScale scale, const float* maxima,
                                   float bound) noexcept {
  const SoftmaxTerm<WeightSum::kShift> term(scale);
  const Vec limit = set1(bound);
  WeightSum sum;
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    if (!(maxima[begin / kScoreBlock] > bound)) continue;
    const int64_t end = begin + kScoreBlock < n ? begin + kScoreBlock : n;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const Vec score = load(scores + i);
      sum.add(select(less(limit, score), term(score), zero()));
    }
    if (i == end) continue;
    const Vec score = select(first_lanes(end - i), load_n(scores + i, end - i), limit);
    sum.add(select(less(limit, score), term(score), zero()));
  }
  return sum.total();
}

void softmax_exps_kernel(const float* scores, int64_t n, SoftmaxScale scale, float* exps) noexcept {
  const SoftmaxTerm<0> term(scale);
  for_lanes(scores, n, exps, [&](Vec score) { return term(score); });
}

}  // namespace
}  // namespace pythia
