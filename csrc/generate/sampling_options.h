// How the next token is chosen from the logits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace pythia {

// Names and meanings of transformers' GenerationConfig; presence_penalty, frequency_penalty and logit_bias as the OpenAI API
// defines them. The steps run in this order, those marked * only when do_sample is on (without it they are ignored):
//   logit_bias, repetition_penalty, presence_penalty and frequency_penalty, no_repeat_ngram_size, then arg-max,
//   or temperature*, top_k*, top_p*, min_p*, typical_p* and a draw.
struct SamplingOptions {
  bool do_sample = false;           // off: the token with the highest score, the lowest id of equals
  float temperature = 1.0f;         // scores are divided by it; > 0, without do_sample also 0
  int64_t top_k = 0;                // keep the k highest scores and all that equal the k-th; 0: off
  double top_p = 1.0;               // keep the fewest most likely tokens whose probabilities sum to top_p or more; 1: off
  double min_p = 0.0;               // keep tokens at least min_p times as likely as the most likely one; 0: off
  double typical_p = 1.0;           // keep the tokens nearest to the expected information, up to this mass; 1: off
  float repetition_penalty = 1.0f;  // scores of prompt and generated tokens are divided by it if >= 0, else multiplied
  float presence_penalty = 0.0f;    // subtracted from the scores of generated tokens
  float frequency_penalty = 0.0f;   // subtracted as often as the token has been generated
  int64_t no_repeat_ngram_size =
      0;  // ban tokens that would end a run of so many that was there before, prompt included; 0: off
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token id, added to its score); -infinity bans a token

  bool changes_logits() const { return !logit_bias.empty() || has_history_terms(); }
  bool has_history_terms() const { return has_penalties() || no_repeat_ngram_size > 0; }
  bool has_penalties() const { return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f; }
};

// Throws std::invalid_argument naming the option if one is out of its range, for a model of `vocab_size` outputs.
void validate(const SamplingOptions& options, int64_t vocab_size);

}  // namespace pythia
