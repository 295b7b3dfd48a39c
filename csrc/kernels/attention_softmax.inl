// The softmax of a chunk of scores, and the sum of chunks. Included through bodies.inl.
#pragma once

#include <type_traits>

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

// One query's state over the chunks merged so far: the largest score, and the sum of the weights relative to it.
struct SoftmaxState {
  float largest;
  float sum;
};

// What turns differences of scores into weights, at most 1 and at least 2^-126: `kCount` vectors in place. Float scores may be
// NaN, or infinite as their maximum: their weights are NaN. (Scores of codes are finite.)
struct NaturalExp {
  template <int kCount>
  static void apply(Vec (&x)[kCount]) {
    const Vec nan = not_a_number();
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) x[i] = select(less(x[i], set1(1.0f)), exp_clamped(x[i]), nan);
  }
};
struct BinaryExp {
  template <int kCount>
  static void apply(Vec (&x)[kCount]) {
    exp2_clamped(x);
  }
};

// Gives keep(i, weights) the weights Exp(factor * score - largest) of each sixteen of `n` scores, largest being the rounded
// product factor * (largest score), lanes beyond n zero. Sums run over 16 virtual lanes.
template <class Exp, class Keep>
inline SoftmaxState softmax_chunk(const float* scores, int64_t n, float factor, Keep keep) {
  constexpr int kUnroll = 4;
  const Vec lowest = minus_infinity();
  const int64_t whole = n / kLanes * kLanes;
  const Mask rest = first_lanes(n - whole);
  Vec tops[kUnroll] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  for (; i + kUnroll * kLanes <= whole; i += kUnroll * kLanes)
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) tops[u] = max(load(scores + i + u * kLanes), tops[u]);
  for (; i < whole; i += kLanes) tops[0] = max(load(scores + i), tops[0]);
  if (whole < n) tops[1] = max(select(rest, load(scores + whole), lowest), tops[1]);

  const float largest = reduce_max(max(max(tops[0], tops[1]), max(tops[2], tops[3]))) * factor;
  const Vec factors = set1(factor), shift = set1(-largest);
  Vec sum = zero();
  const auto weigh = [&]<int kCount>(std::integral_constant<int, kCount>, int64_t at, auto mask) {
    Vec weights[kCount];
    for (int u = 0; u < kCount; ++u) weights[u] = fma(load(scores + at + u * kLanes), factors, shift);
    Exp::apply(weights);
    for (int u = 0; u < kCount; ++u) {
      const Vec weight = mask(weights[u]);
      sum = sum + weight;
      keep(at + u * kLanes, weight);
    }
  };
  const auto all = [](Vec v) { return v; };
  i = 0;
  for (; i + kUnroll * kLanes <= whole; i += kUnroll * kLanes) weigh(std::integral_constant<int, kUnroll>{}, i, all);
  for (; i < whole; i += kLanes) weigh(std::integral_constant<int, 1>{}, i, all);
  if (whole < n) weigh(std::integral_constant<int, 1>{}, whole, [&](Vec v) { return select(rest, v, zero()); });
  return {largest, reduce_add(sum)};
}

// Adds a chunk (its state and weighted values) to what was merged before.
template <class Exp>
inline void merge_chunk(SoftmaxState& state, float* values, SoftmaxState chunk, const float* chunk_values,
                        int64_t value_stride) {
  const float largest = chunk.largest > state.largest ? chunk.largest : state.largest;
  Vec factors[2] = {set1(state.largest - largest), set1(chunk.largest - largest)};
  Exp::apply(factors);
  const Vec keep = factors[0], add = factors[1];
  for (int64_t d = 0; d < value_stride; d += kLanes)
    store(values + d, fma(load(values + d), keep, load(chunk_values + d) * add));
  state = {largest, first_lane(fma(set1(state.sum), keep, set1(chunk.sum) * add))};
}

}  // namespace
}  // namespace pythia
