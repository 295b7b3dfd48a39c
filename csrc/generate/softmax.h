// Softmax over a vocabulary, in integer weights (selection.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/score_row.h"
#include "kernels/kernels.h"
#include "kernels/score_maxima.h"

namespace pythia {

struct TokenLogprob {
  int32_t id;
  float logprob;
};

// Log-softmax of the unmodified logits of one position: log-probabilities of the model, not of the sampler.
class LogSoftmax {
 public:
  // Takes the row over, with a temperature of 1. logits [vocab_size] must outlive the object, as must their maxima, which are
  // made if they are not given. parallel_for may be null.
  LogSoftmax(const KernelTable& kernels, ScoreRow& row, std::span<const float> logits, const ScoreMaxima& maxima = {},
             const ParallelFor* parallel_for = nullptr);

  float of(int32_t id) const { return (logits_[static_cast<size_t>(id)] - largest_) - log_total_; }

  // The n most likely tokens (all, if there are fewer), best first, lower ids first among equals. `scratch` is overwritten.
  std::vector<TokenLogprob> top(int64_t n, std::vector<float>& scratch) const;

 private:
  std::span<const float> logits_;
  std::span<const float> maxima_;
  float largest_;
  float log_total_;
};

}  // namespace pythia
