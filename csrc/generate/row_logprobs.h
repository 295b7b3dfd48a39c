// Log-probabilities of tokens from one row of logits in memory, for who chooses a token: the bits that a scoring pass gives.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "generate/score_row.h"
#include "kernels/kernels.h"
#include "model/scoring.h"

namespace pythia {

struct TokenLogprob {
  int32_t id;
  float logprob;
};

// Holds scratch memory; one user at a time.
class RowLogprobs {
 public:
  explicit RowLogprobs(const KernelTable& kernels) : kernels_(kernels) {}

  // What follows is of this row, [vocab_size], which must stay. The log-probability of `target` has the bits of
  // TokenScore::logprob; those of others are from the same sums and may differ from theirs in the last bits. Results do not
  // depend on parallel_for, which may be null.
  void reset(std::span<const float> logits, int32_t target, const ParallelFor* parallel_for = nullptr);

  float of(int32_t id) const { return total_.logprob(logits_[static_cast<size_t>(id)]); }

  // The n most likely tokens (all, if there are fewer), best first, lower ids first among equals. `maxima` are those of the
  // row's blocks; none: they are made.
  std::vector<TokenLogprob> top(int64_t n, std::span<const float> maxima = {});

 private:
  const KernelTable& kernels_;
  std::span<const float> logits_;
  RowTotal total_;
  std::vector<LogitSummary> summaries_;
  std::vector<float> own_maxima_, scratch_;
};

}  // namespace pythia
