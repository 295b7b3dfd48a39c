// What a softmax needs of a row of logits, without keeping them. Included through bodies.inl.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

LogitSummary summarize_logits_kernel(const float* logits, int64_t n) noexcept {
  const Vec lowest = from_bits(set1_i(-8388608));  // -infinity
  const auto load_lanes = [&](int64_t i) {
    return i + kLanes <= n ? load(logits + i) : select(first_lanes(n - i), load_n(logits + i, n - i), lowest);
  };
  // Each lane's largest logit and where it was first seen; indices below 2^24 are exact in float.
  Vec top = lowest, first = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec x = load_lanes(i);
    first = select(less(top, x), set1(static_cast<float>(i)), first);
    top = max(x, top);
  }
  float tops[kLanes], firsts[kLanes];
  store(tops, top);
  store(firsts, first);
  LogitSummary summary = {tops[0], 0.0f, static_cast<int32_t>(firsts[0])};
  for (int32_t lane = 1; lane < kLanes; ++lane) {
    const int32_t index = static_cast<int32_t>(firsts[lane]) + lane;
    if (tops[lane] > summary.largest || (tops[lane] == summary.largest && index < summary.argmax))
      summary = {tops[lane], 0.0f, index};
  }

  const Vec largest = set1(summary.largest);
  Vec sum = zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + exp_nonpositive(load_lanes(i) - largest);
  summary.sum = reduce_add(sum);
  return summary;
}

}  // namespace
}  // namespace pythia
