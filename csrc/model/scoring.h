// Log-probabilities of given tokens, without the logits in memory: the head's outputs are computed chunk by chunk, each chunk
// of each row is summarized, and summaries are merged in order.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "common/aligned_buffer.h"
#include "kernels/kernels.h"

namespace pythia {

// What the model says of one token in its place.
struct TokenScore {
  float logprob = 0;     // log p(token | the tokens before it), natural
  float entropy = 0;     // of the model's whole distribution in its place, in nats
  float varentropy = 0;  // the variance of the log-probability over that distribution
  int32_t argmax = 0;    // the most likely token in its place, the lowest id of equals; -1 if all logits are NaN
  int32_t rank = 0;      // how many tokens come before it if all are ordered so: 0 is the most likely one; -1: logprob is NaN
};

// The token that greedy decoding takes.
struct GreedyChoice {
  float logit = -std::numeric_limits<float>::infinity();
  int32_t id = -1;  // the lowest of equals; -1 if all logits are NaN or -infinity

  // Takes the largest of logits [first, first + n) if it is larger, or equal and of a lower id.
  void see(const KernelTable& kernels, const float* logits, int64_t first, int64_t n, float largest) {
    if (!(largest > logit || (largest == logit && first < id))) return;
    const float below = std::nextafter(largest, -std::numeric_limits<float>::infinity());
    *this = {largest, static_cast<int32_t>(first + kernels.first_above(logits, n, below))};
  }
};

// Rows of logits that one task computes at a time: whole register tiles for most kernels, and few enough that a chunk of them
// stays in the second-level cache.
inline constexpr int64_t kScoreRows = 128;

// Buffers of a scoring pass, allocated once for the largest and used again.
class ScoreWorkspace {
 public:
  void reserve(int64_t vocab_size, int64_t rows, int threads) {
    chunks_ = ceil_div(vocab_size, kLogitChunk);
    summaries_.reserve(rows * chunks_);
    target_logits_.reserve(rows);
    reserve_choices(rows, threads);
  }

  // All that passes need which only choose.
  void reserve_choices(int64_t rows, int threads) { choices_.reserve(threads * choices_stride(rows)); }

  // A thread's choices among the logits it has seen, [rows].
  GreedyChoice* choices(int rank, int64_t rows) const { return choices_.data() + rank * choices_stride(rows); }

  // The choice of a row of all threads.
  GreedyChoice choice(int64_t row, int64_t rows, int threads) const {
    GreedyChoice best;
    for (int rank = 0; rank < threads; ++rank) {
      const GreedyChoice& own = choices(rank, rows)[row];
      if (own.logit > best.logit || (own.logit == best.logit && own.id < best.id)) best = own;
    }
    return best;
  }

  // One row's chunks in order; `above` is how many of a chunk's tokens come before the target.
  std::span<LogitSummary> summaries(int64_t row) const {
    return {summaries_.data() + row * chunks_, static_cast<std::size_t>(chunks_)};
  }
  float& target_logit(int64_t row) const { return target_logits_.data()[row]; }

 private:
  // No two threads' in one cache line.
  static int64_t choices_stride(int64_t rows) {
    return round_up(rows, kAlignment / static_cast<int64_t>(sizeof(GreedyChoice)));
  }

  int64_t chunks_ = 0;
  AlignedBuffer<LogitSummary> summaries_;
  AlignedBuffer<float> target_logits_;
  AlignedBuffer<GreedyChoice> choices_;
};

// The token of a row whose score is asked for.
struct ScoreTarget {
  int64_t id;
  float logit;

  // The summary of the row's logits [first, first + n), a chunk: the sums are of those other than the target's, `above` is how
  // many come before the target.
  LogitSummary summarize(const KernelTable& kernels, const float* logits, int64_t first, int64_t n) const noexcept;
};

// The log of the sum of exp of a row's logits is reference + log_sum.
struct RowTotal {
  float reference = 0;
  double log_sum = 0;
  double mean_below = 0;  // expected reference - logit, the entropy less log_sum
  double varentropy = 0;  // the variance of that, which is that of the log-probability

  float logprob(float logit) const noexcept {
    return static_cast<float>((static_cast<double>(logit) - static_cast<double>(reference)) - log_sum);
  }
};

// The total of a row from its chunks in order: exact arithmetic but for the chunks' float sums and the factors between chunks,
// so that the error is that of 16 lanes' sums of 48 terms (about 1e-7 of what is not the target's part), of their exponentials,
// and the float result's own rounding. The target's part is added here, so that nothing is lost where it is nearly all.
RowTotal merge_summaries(const KernelTable& kernels, std::span<const LogitSummary> chunks, float target_logit) noexcept;

TokenScore score_of(const KernelTable& kernels, std::span<const LogitSummary> chunks, float target_logit,
                    int32_t argmax) noexcept;

// The score of `target` from its row of logits in memory, with the bits of a scoring pass. `chunks` is scratch, one for each.
TokenScore score_row(const KernelTable& kernels, std::span<const float> logits, int32_t target,
                     std::span<LogitSummary> chunks) noexcept;

}  // namespace pythia
