// What choosing a token needs of a row of scores. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

void block_maxima_kernel(const float* x, int64_t n, float* maxima, float* group_maxima) noexcept {
  static_assert(kScoreGroups == kLanes);
  const Vec lowest = minus_infinity();
  const auto put = [&](Vec top) {
    *maxima++ = reduce_max(top);
    if (group_maxima == nullptr) return;
    store(group_maxima, top);
    group_maxima += kScoreGroups;
  };
  for (; n >= kScoreBlock; x += kScoreBlock, n -= kScoreBlock) {
    // A NaN compares as the smaller one here: max gives its second operand.
    Vec even = max(load(x), lowest), odd = max(load(x + kLanes), lowest);
    for (int64_t i = 2 * kLanes; i < kScoreBlock; i += 2 * kLanes) {
      even = max(load(x + i), even);
      odd = max(load(x + i + kLanes), odd);
    }
    put(max(even, odd));
  }
  if (n == 0) return;
  Vec top = lowest;
  for (int64_t i = 0; i < n; i += kLanes) top = max(select(first_lanes(n - i), load_n(x + i, n - i), lowest), top);
  put(top);
}

// Which of kLanes blocks have a maximum above the limit, the first in the lowest bit; their scores are asked for.
inline uint32_t blocks_above(const float* scores, const float* maxima, int64_t num_blocks, Vec limit) {
  const uint32_t found = bit_mask(less(limit, load_n(maxima, num_blocks))) & bit_mask(first_lanes(num_blocks));
  for (uint32_t left = found; left != 0; left &= left - 1)
    for (int64_t i = 0; i < kScoreBlock; i += kLanes) __builtin_prefetch(scores + __builtin_ctz(left) * kScoreBlock + i);
  return found;
}

int64_t collect_above_kernel(const float* scores, int64_t n, const float* maxima, float bound, int32_t* ids,
                             float* found_scores) noexcept {
  constexpr int64_t kStep = kLanes * kScoreBlock;
  const Vec limit = set1(bound);
  const int64_t num_blocks = ceil_div(n, kScoreBlock);
  int64_t count = 0;
  uint32_t next = blocks_above(scores, maxima, num_blocks, limit);
  for (int64_t step = 0; step < n; step += kStep) {
    uint32_t blocks = next;
    // Those of the next step come while these are searched.
    const int64_t next_block = (step + kStep) / kScoreBlock;
    next =
        next_block < num_blocks ? blocks_above(scores + step + kStep, maxima + next_block, num_blocks - next_block, limit) : 0;
    for (; blocks != 0; blocks &= blocks - 1) {
      const int64_t begin = step + __builtin_ctz(blocks) * kScoreBlock, end = begin + kScoreBlock < n ? begin + kScoreBlock : n;
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
  }
  return count;
}

// 2^((score - largest) steepness) for scores up to the largest, times 2^kShift. Exponents end at -40, where weights are zero;
// NaN is taken there too.
template <int kShift>
class SoftmaxTerm {
 public:
  explicit SoftmaxTerm(SoftmaxScale scale)
      : largest_(set1(scale.largest)), steepness_(set1(scale.steepness)), lowest_(set1(-40.0f / scale.steepness)) {}

  Vec operator()(Vec score) const {
    Vec x[1] = {score};
    replace(x);
    return x[0];
  }

  // Several at a time, step by step: one alone waits for each of its steps.
  template <int kCount>
  void replace(Vec (&x)[kCount]) const {
    const Vec magic = set1(kRoundingMagic + static_cast<float>(kShift));
    Vec shifted[kCount];
    for (Vec& v : x) v = max(v - largest_, lowest_);
    for (int i = 0; i < kCount; ++i) shifted[i] = fma(x[i], steepness_, magic);  // its low bits are the exponent
    for (int i = 0; i < kCount; ++i) x[i] = fma(x[i], steepness_, magic - shifted[i]);
    exp2_parts(shifted, x);
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

// Calls body(score, term) for all of n scores; what is no score of them has the term zero.
template <class Body>
inline void for_terms(const float* scores, int64_t n, const SoftmaxTerm<WeightSum::kShift>& term, Body body) {
  constexpr int kCount = kTilePanels;  // as many as registers hold
  int64_t i = 0;
  for (; i + kCount * kLanes <= n; i += kCount * kLanes) {
    Vec x[kCount];
    for (int k = 0; k < kCount; ++k) x[k] = load(scores + i + k * kLanes);
    term.replace(x);
    for (int k = 0; k < kCount; ++k) body(load(scores + i + k * kLanes), x[k]);
  }
  for (; i < n; i += kLanes) {
    const Vec score = load_n(scores + i, n - i);
    body(score, select(first_lanes(n - i), term(score), zero()));
  }
}

void softmax_totals_kernel(const float* scores, int64_t n, SoftmaxScale scale, int64_t* totals) noexcept {
  const SoftmaxTerm<WeightSum::kShift> term(scale);
  for (; n > 0; scores += kSoftmaxChunk, n -= kSoftmaxChunk) {
    WeightSum sum;
    for_terms(scores, n < kSoftmaxChunk ? n : kSoftmaxChunk, term, [&](Vec, Vec scaled) { sum.add(scaled); });
    *totals++ = sum.total();
  }
}

void softmax_moments_kernel(const float* scores, int64_t n, SoftmaxScale scale, int64_t* totals, float* moments) noexcept {
  const SoftmaxTerm<WeightSum::kShift> term(scale);
  const Vec largest = set1(scale.largest), steepness = set1(scale.steepness), lowest = set1(40.0f / scale.steepness);
  for (; n > 0; scores += kSoftmaxChunk, n -= kSoftmaxChunk) {
    WeightSum sum;
    Vec moment = zero();
    for_terms(scores, n < kSoftmaxChunk ? n : kSoftmaxChunk, term, [&](Vec score, Vec scaled) {
      sum.add(scaled);
      const Vec below = largest - score;
      moment = fma(scaled, select(less(below, lowest), below * steepness, zero()), moment);
    });
    *totals++ = sum.total();
    *moments++ = reduce_add(moment) * (1.0f / static_cast<float>(1 << WeightSum::kShift));
  }
}

// 2^((score - largest) steepness + kShift) for scores up to the largest, or up to 6.15% more: between powers of two the
// exponential runs below its chord, which is what a float's bits give when they are a linear function of the exponent.
template <int kShift>
class SoftmaxChord {
 public:
  explicit SoftmaxChord(SoftmaxScale scale)
      : largest_(set1(scale.largest)), steepness_(set1(scale.steepness)), lowest_(set1(-40.0f / scale.steepness)) {}

  Vec operator()(Vec score) const {
    const Vec exponent = max(score - largest_, lowest_) * steepness_;
    return from_bits(round_to_int(fma(exponent, set1(0x1p23f), set1(static_cast<float>(127 + kShift) * 0x1p23f))));
  }

 private:
  Vec largest_, steepness_, lowest_;
};

SoftmaxEstimate softmax_estimate_kernel(const float* scores, int64_t n, SoftmaxScale scale, float high, float low) noexcept {
  const SoftmaxChord<0> chord(scale);
  const Vec high_limit = set1(high), low_limit = set1(low);
  Vec all = zero(), above_high = zero(), above_low = zero();
  const auto add = [&](Vec score, Vec estimate) {
    all = all + estimate;
    above_high = above_high + select(less(high_limit, score), estimate, zero());
    above_low = above_low + select(less(low_limit, score), estimate, zero());
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) add(load(scores + i), chord(load(scores + i)));
  if (i < n) {
    const Vec score = load_n(scores + i, n - i);
    add(score, select(first_lanes(n - i), chord(score), zero()));
  }
  return {reduce_add(all), reduce_add(above_high), reduce_add(above_low)};
}

void softmax_bounds_kernel(const float* scores, int64_t n, SoftmaxScale scale, float bound, int32_t* bounds,
                           int32_t* totals) noexcept {
  const Vec limit = set1(bound);
  const SoftmaxChord<kBoundBits> chord(scale);
  const auto bound_of = [&](Vec score) {
    const IVec some = to_int(chord(score)) + set1_i(1);
    return bits(select(less(limit, score), from_bits(some), zero()));
  };
  for (; n > 0; n -= kBoundsPart, scores += kBoundsPart, bounds += kBoundsPart) {
    static_assert(kBoundsPart % kLanes == 0 && (kBoundsPart << kBoundBits) + kBoundsPart <= INT32_MAX);
    const int64_t whole = (n < kBoundsPart ? n : kBoundsPart) / kLanes * kLanes;
    IVec sum = set1_i(0);
    int64_t i = 0;
    for (; i < whole; i += kLanes) {
      const IVec some = bound_of(load(scores + i));
      store_i(bounds + i, some);
      sum = sum + some;
    }
    int32_t total = reduce_add_i(sum);
    if (i < kBoundsPart && i < n) {
      int32_t last[kLanes];
      store_i(last, bound_of(load_n(scores + i, n - i)));
      for (int lane = 0; lane < kLanes && i + lane < n; ++lane) total += bounds[i + lane] = last[lane];
    }
    *totals++ = total;
  }
}

int64_t softmax_total_above_kernel(const float* scores, int64_t n, SoftmaxScale scale, const float* maxima,
                                   float bound) noexcept {
  const SoftmaxTerm<WeightSum::kShift> term(scale);
  const Vec limit = set1(bound);
  WeightSum sum;
  const auto add = [&](Vec score, Vec scaled) { sum.add(select(less(limit, score), scaled, zero())); };
  for (int64_t begin = 0; begin < n; begin += kScoreBlock) {
    if (!(maxima[begin / kScoreBlock] > bound)) continue;
    for_terms(scores + begin, n - begin < kScoreBlock ? n - begin : kScoreBlock, term, add);
  }
  return sum.total();
}

void softmax_exps_kernel(const float* scores, int64_t n, SoftmaxScale scale, float* exps) noexcept {
  const SoftmaxTerm<0> term(scale);
  for_lanes(scores, n, exps, [&](Vec score) { return term(score); });
}

}  // namespace
}  // namespace pythia
