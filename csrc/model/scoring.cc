#include "model/scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/exact_math.h"

namespace pythia {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

LogitSummary ScoreTarget::summarize(const KernelTable& kernels, const float* logits, int64_t first, int64_t n) const noexcept {
  const int64_t place = id - first;
  LogitSummary summary;
  if (place < 0 || place >= n) {
    summary = kernels.summarize_logits(logits, n, place < 0 ? logit : std::nextafter(logit, -kInfinity));
  } else {
    float others[kLogitChunk];
    std::copy_n(logits, n, others);
    others[place] = -kInfinity;
    summary = kernels.summarize_logits(others, n, logit);
    summary.largest = std::max(summary.largest, logit);
  }
  // Of equal logits the lower id comes first: those of lower ids than the target's count where they are not below it.
  const int64_t num_lower = std::clamp<int64_t>(place, 0, n);
  if (logit == -kInfinity)
    summary.above = static_cast<int32_t>(num_lower) + kernels.count_above(logits + num_lower, n - num_lower, logit);
  else if (num_lower > 0 && num_lower < n)
    summary.above += kernels.count_above(logits, num_lower, std::nextafter(logit, -kInfinity)) -
                     kernels.count_above(logits, num_lower, logit);
  return summary;
}

RowTotal merge_summaries(const KernelTable& kernels, std::span<const LogitSummary> chunks, float target_logit) noexcept {
  float reference = target_logit;
  for (const LogitSummary& chunk : chunks) reference = std::max(reference, chunk.reference);

  // Of exp(logit - reference), and that times (reference - logit) and its square.
  double total = 0, weighted = 0, squared = 0;
  const auto add = [&](double sum, double sum_below, double sum_squared, float from, float factor) {
    if (factor == 0.0f) return;  // infinitely far
    const double below = static_cast<double>(reference) - static_cast<double>(from);
    total += sum * static_cast<double>(factor);
    weighted += (sum_below + sum * below) * static_cast<double>(factor);
    squared += (sum_squared + below * (2 * sum_below + sum * below)) * static_cast<double>(factor);
  };
  constexpr std::size_t kBlock = 64;
  float factors[kBlock] = {target_logit - reference};
  kernels.exp(factors, 1, factors);
  add(1.0, 0.0, 0.0, target_logit, factors[0]);
  for (std::size_t begin = 0; begin < chunks.size(); begin += kBlock) {
    const std::span<const LogitSummary> block = chunks.subspan(begin, std::min(kBlock, chunks.size() - begin));
    for (std::size_t i = 0; i < block.size(); ++i) factors[i] = block[i].reference - reference;
    kernels.exp(factors, static_cast<int64_t>(block.size()), factors);
    for (std::size_t i = 0; i < block.size(); ++i)
      add(static_cast<double>(block[i].sum), static_cast<double>(block[i].weighted), static_cast<double>(block[i].squared),
          block[i].reference, factors[i]);
  }
  const double mean = weighted / total, variance = squared / total - mean * mean;
  return {.reference = reference,
          .log_sum = log_exact(total),
          .mean_below = mean,
          .varentropy = variance < 0 ? 0 : variance};  // where rounding is all that is left of it
}

TokenScore score_of(const KernelTable& kernels, std::span<const LogitSummary> chunks, float target_logit,
                    int32_t argmax) noexcept {
  const RowTotal total = merge_summaries(kernels, chunks, target_logit);
  const float logprob = total.logprob(target_logit);
  int32_t rank = 0;
  for (const LogitSummary& chunk : chunks) rank += chunk.above;
  if (std::isnan(logprob)) rank = -1;  // nothing is above NaN
  return {.logprob = logprob,
          .entropy = static_cast<float>(total.log_sum + total.mean_below),
          .varentropy = static_cast<float>(total.varentropy),
          .argmax = argmax,
          .rank = rank};
}

TokenScore score_row(const KernelTable& kernels, std::span<const float> logits, int32_t target,
                     std::span<LogitSummary> chunks) noexcept {
  const ScoreTarget to_score = {.id = target, .logit = logits[static_cast<std::size_t>(target)]};
  const auto vocab_size = static_cast<int64_t>(logits.size());
  GreedyChoice choice;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const int64_t first = static_cast<int64_t>(i) * kLogitChunk, n = std::min(kLogitChunk, vocab_size - first);
    chunks[i] = to_score.summarize(kernels, logits.data() + first, first, n);
    choice.see(kernels, logits.data() + first, first, n, chunks[i].largest);
  }
  return score_of(kernels, chunks, to_score.logit, choice.id);
}

}  // namespace pythia
