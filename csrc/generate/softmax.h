// Softmax over a vocabulary, in integer weights (selection.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace pythia {

// log(total / 2^kWeightBits).
float log_total(const KernelTable& kernels, int64_t total);

struct TokenLogprob {
  int32_t id;
  float logprob;
};

// Log-softmax of the unmodified logits of one position: log-probabilities of the model, not of the sampler.
class LogSoftmax {
 public:
  // logits [vocab_size] must outlive the object. `maxima` and `totals` are scratch, which must too.
  LogSoftmax(const KernelTable& kernels, std::span<const float> logits, std::vector<float>& maxima,
             std::vector<int64_t>& totals);

  float of(int32_t id) const { return (logits_[static_cast<size_t>(id)] - largest_) - log_total_; }

  // The n most likely tokens (all, if there are fewer), best first, lower ids first among equals.
  std::vector<TokenLogprob> top(int64_t n, std::vector<float>& scratch) const;

 private:
  std::span<const float> logits_;
  std::span<const float> maxima_;
  float largest_;
  float log_total_;
};

}  // namespace pythia
