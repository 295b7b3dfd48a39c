#include "generate/softmax.h"

#include "generate/selection.h"

namespace pythia {

LogSoftmax::LogSoftmax(const KernelTable& kernels, ScoreRow& row, std::span<const float> logits, const ScoreMaxima& maxima,
                       const ParallelFor* parallel_for)
    : logits_(logits) {
  row.reset(logits, maxima, 1.0f, parallel_for);
  maxima_ = row.maxima();
  largest_ = row.largest();
  log_total_ = log_total(kernels, row.total());
}

std::vector<TokenLogprob> LogSoftmax::top(int64_t n, std::vector<float>& scratch) const {
  std::vector<TokenLogprob> best;
  for (const int64_t place : largest_places(logits_, maxima_, n, scratch)) {
    const auto id = static_cast<int32_t>(place);
    best.push_back({id, of(id)});
  }
  return best;
}

}  // namespace pythia
