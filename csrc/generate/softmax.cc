#include "generate/softmax.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "generate/selection.h"

namespace pythia {

float log_total(const KernelTable& kernels, int64_t total) {
  const float sum = static_cast<float>(std::ldexp(static_cast<double>(total), -kWeightBits));
  float result = 0;
  kernels.log(&sum, 1, &result);
  return result;
}

LogSoftmax::LogSoftmax(const KernelTable& kernels, std::span<const float> logits, std::vector<float>& maxima,
                       std::vector<int64_t>& totals)
    : logits_(logits), largest_(block_maxima(kernels, logits, maxima)) {
  maxima_ = maxima;
  const auto n = static_cast<int64_t>(logits.size());
  totals.resize(static_cast<size_t>(ceil_div(n, kSoftmaxChunk)));
  kernels.softmax_totals(logits.data(), n, {.largest = largest_, .steepness = std::numbers::log2e_v<float>}, totals.data());
  log_total_ = log_total(kernels, std::accumulate(totals.begin(), totals.end(), int64_t{0}));
}

std::vector<TokenLogprob> LogSoftmax::top(int64_t n, std::vector<float>& scratch) const {
  n = std::min(n, static_cast<int64_t>(logits_.size()));
  std::vector<TokenLogprob> best;
  if (n <= 0) return best;
  const float bound = kth_largest(logits_, 1.0f, maxima_, n, scratch);
  for (size_t b = 0; b < maxima_.size(); ++b) {
    if (maxima_[b] < bound) continue;
    const size_t begin = b * kScoreBlock, end = std::min<size_t>(begin + kScoreBlock, logits_.size());
    for (size_t i = begin; i < end; ++i)
      if (logits_[i] >= bound) best.push_back({static_cast<int32_t>(i), logits_[i]});
  }
  // Ids ascend, so a stable sort puts lower ids first among equal logits.
  std::stable_sort(best.begin(), best.end(), [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
  best.resize(std::min(best.size(), static_cast<size_t>(n)));
  for (auto& token : best) token.logprob = of(token.id);
  return best;
}

}  // namespace pythia
