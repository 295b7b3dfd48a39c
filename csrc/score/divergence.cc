#include "score/divergence.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/exact_math.h"
#include "model/scoring.h"

namespace pythia {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr auto kChunk = static_cast<std::size_t>(kLogitChunk);

LogTotals make_totals(double p, double q) noexcept {
  const auto p_float = static_cast<float>(p), q_float = static_cast<float>(q);
  return {.p = p_float,
          .p_rest = static_cast<float>(p - static_cast<double>(p_float)),
          .q = q_float,
          .q_rest = static_cast<float>(q - static_cast<double>(q_float)),
          .p_minus_q = static_cast<float>(p - q)};
}

}  // namespace

double log_sum_exp(const KernelTable& kernels, std::span<const float> logits) noexcept {
  float reference = -kInfinity;  // of `total`; a logit so far, and no other is far above it
  double total = 0;
  bool numbers = true;
  for (std::size_t begin = 0; begin < logits.size(); begin += kChunk) {
    const std::span<const float> chunk = logits.subspan(begin, std::min(kChunk, logits.size() - begin));
    for (const float logit : chunk) numbers &= logit < kInfinity;
    const float bound = std::max(reference, chunk[0]);
    const LogitSummary summary = kernels.summarize_logits(chunk.data(), static_cast<int64_t>(chunk.size()), bound);
    if (summary.largest == -kInfinity) continue;
    const float highest = std::max(reference, summary.reference);
    float factors[] = {reference - highest, summary.reference - highest};
    kernels.exp(factors, 2, factors);
    total = total * static_cast<double>(factors[0]) + static_cast<double>(summary.sum) * static_cast<double>(factors[1]);
    reference = highest;
  }
  if (!numbers) return std::numeric_limits<double>::quiet_NaN();
  return reference == -kInfinity ? -kInfinity : static_cast<double>(reference) + log_exact(total);
}

float kl_divergence(const KernelTable& kernels, std::span<const float> p_logits, std::span<const float> q_logits) noexcept {
  const double p_total = log_sum_exp(kernels, p_logits), q_total = log_sum_exp(kernels, q_logits);
  if (!std::isfinite(p_total) || !std::isfinite(q_total)) return std::numeric_limits<float>::quiet_NaN();
  const LogTotals totals = make_totals(p_total, q_total);
  double sum = 0;
  for (std::size_t begin = 0; begin < p_logits.size(); begin += kChunk) {
    const auto n = static_cast<int64_t>(std::min(kChunk, p_logits.size() - begin));
    sum += static_cast<double>(kernels.divergence(p_logits.data() + begin, q_logits.data() + begin, n, totals));
  }
  return static_cast<float>(sum);
}

}  // namespace pythia
