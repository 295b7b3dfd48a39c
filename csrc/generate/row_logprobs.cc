#include "generate/row_logprobs.h"

#include <algorithm>

#include "generate/selection.h"

namespace pythia {
namespace {

// Threads share a row in parts of this many chunks, if there are several.
constexpr int64_t kPart = 6;

}  // namespace

void RowLogprobs::reset(std::span<const float> logits, int32_t target, const ParallelFor* parallel_for) {
  logits_ = logits;
  const auto vocab_size = static_cast<int64_t>(logits.size());
  const int64_t chunks = ceil_div(vocab_size, kLogitChunk), parts = ceil_div(chunks, kPart);
  summaries_.resize(static_cast<size_t>(chunks));
  const ScoreTarget to_score = {.id = target, .logit = logits[static_cast<size_t>(target)]};
  const auto run_part = [&](int64_t part) {
    for (int64_t chunk = part * kPart; chunk < std::min(chunks, (part + 1) * kPart); ++chunk) {
      const int64_t first = chunk * kLogitChunk, n = std::min(kLogitChunk, vocab_size - first);
      summaries_[static_cast<size_t>(chunk)] = to_score.summarize(kernels_, logits.data() + first, first, n);
    }
  };
  if (parallel_for && parts > 1) {
    (*parallel_for)(parts, run_part);
  } else {
    for (int64_t part = 0; part < parts; ++part) run_part(part);
  }
  total_ = merge_summaries(kernels_, summaries_, to_score.logit);
}

std::vector<TokenLogprob> RowLogprobs::top(int64_t n, std::span<const float> maxima) {
  if (n == 0) return {};
  if (maxima.empty()) {
    block_maxima(kernels_, logits_, own_maxima_);
    maxima = own_maxima_;
  }
  std::vector<TokenLogprob> best;
  for (const int64_t place : largest_places(logits_, maxima, n, scratch_)) {
    const auto id = static_cast<int32_t>(place);
    best.push_back({id, of(id)});
  }
  return best;
}

}  // namespace pythia
