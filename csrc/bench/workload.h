// The three things a language model is used for, timed: reading a prompt, writing on, scoring texts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "format/reader.h"
#include "model/model.h"

namespace pythia {

// What one token costs in the model's matmuls, its embedding, norms and attention left out: two operations a weight.
struct MatmulCost {
  int64_t token_operations = 0;  // of every token: all layers, but of the last one keys and values only
  int64_t logit_operations = 0;  // of a token with logits beside that: the rest of the last layer, and the head
  int64_t size_bytes = 0;        // weights read for one token with logits
};
MatmulCost matmul_cost(const PcpuFile& file);

// Seconds of each repetition; one more ran before them. `tokens` are those of one repetition.
struct Timing {
  int64_t tokens = 0;
  int64_t logit_rows = 0;
  std::vector<double> seconds;

  std::size_t best() const;  // the repetition that counts
  double best_seconds() const { return seconds[best()]; }
  double tokens_per_second() const { return static_cast<double>(tokens) / best_seconds(); }
  double matmul_operations_per_second(const MatmulCost& cost) const;
  double weight_bytes_per_second(const MatmulCost& cost) const;  // of decoding, where every token reads all weights
};

// All throw std::invalid_argument if the tokens do not fit the model's context.

// A prompt of `tokens` random tokens in one call, logits of the last.
Timing time_prefill(Model& model, int64_t tokens, int64_t repetitions);

// `tokens` tokens after a prompt of one, greedily, as Generator does it, detokenization included. Calls `between` before each
// repetition that counts and after the last.
Timing time_decode(const std::shared_ptr<Model>& model, int64_t tokens, int64_t repetitions,
                   const std::function<void()>& between);

// `sequences` texts of `tokens` random tokens, one after the other: the log-probability of the next token at every position.
Timing time_scoring(Model& model, int64_t sequences, int64_t tokens, int64_t repetitions);

}  // namespace pythia
