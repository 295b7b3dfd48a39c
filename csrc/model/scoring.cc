#include "model/scoring.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace pythia {

double log_exact(double x) noexcept {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172.
  constexpr double kSqrt2 = 0x1.6a09e667f3bcdp0, kLn2 = 0x1.62e42fefa39efp-1;
  const auto bits = std::bit_cast<uint64_t>(x);
  auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m >= kSqrt2) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  double tail = 0;  // s^2/3 + s^4/5 + ...; terms beyond s^22 are below half an ulp
  for (int k = 23; k >= 3; k -= 2) tail = (tail + 1.0 / k) * square;
  return static_cast<double>(exponent) * kLn2 + (2.0 * s + 2.0 * s * tail);
}

LogitSummary ScoreTarget::summarize(const KernelTable& kernels, const float* logits, int64_t first, int64_t n) const noexcept {
  // Of equal logits the lower id comes first: those of lower ids than the target's count where they are not below it.
  const float below = std::nextafter(logit, -std::numeric_limits<float>::infinity());
  const int64_t place = id - first;
  LogitSummary summary = kernels.summarize_logits(logits, n, place < n ? logit : below);
  if (place > 0 && place < n)
    summary.above += kernels.count_above(logits, place, below) - kernels.count_above(logits, place, logit);
  return summary;
}

RowTotal merge_summaries(const KernelTable& kernels, std::span<const LogitSummary> chunks) noexcept {
  float reference = chunks[0].reference;
  for (const LogitSummary& chunk : chunks) reference = std::max(reference, chunk.reference);

  double total = 0, weighted = 0;  // of exp(logit - reference), and that times (reference - logit)
  constexpr std::size_t kBlock = 64;
  float factors[kBlock];
  for (std::size_t begin = 0; begin < chunks.size(); begin += kBlock) {
    const std::span<const LogitSummary> block = chunks.subspan(begin, std::min(kBlock, chunks.size() - begin));
    for (std::size_t i = 0; i < block.size(); ++i) factors[i] = block[i].reference - reference;
    kernels.exp(factors, static_cast<int64_t>(block.size()), factors);
    for (std::size_t i = 0; i < block.size(); ++i) {
      const double sum = static_cast<double>(block[i].sum), factor = static_cast<double>(factors[i]);
      const double below = static_cast<double>(reference) - static_cast<double>(block[i].reference);
      total += sum * factor;
      weighted += (static_cast<double>(block[i].weighted) + sum * below) * factor;
    }
  }
  return {.reference = reference, .log_sum = log_exact(total), .mean_below = weighted / total};
}

TokenScore score_of(const KernelTable& kernels, std::span<const LogitSummary> chunks, float target_logit,
                    int32_t argmax) noexcept {
  const RowTotal total = merge_summaries(kernels, chunks);
  const float logprob = total.logprob(target_logit);
  int32_t rank = 0;
  for (const LogitSummary& chunk : chunks) rank += chunk.above;
  if (std::isnan(logprob)) rank = -1;  // nothing is above NaN
  return {.logprob = logprob, .entropy = static_cast<float>(total.log_sum + total.mean_below), .argmax = argmax, .rank = rank};
}

}  // namespace pythia
