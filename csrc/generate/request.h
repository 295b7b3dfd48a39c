// What is asked of a generator, and what comes back.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/config.h"
#include "generate/row_logprobs.h"
#include "generate/sampling_options.h"

namespace pythia {

enum class FinishReason {
  kEos,     // a token of eos_token_ids; it is among the tokens, not in the text
  kStop,    // a stop string; the text ends before it, the tokens include those that complete it
  kLength,  // max_new_tokens, or the context is full
};
std::string_view name_of(FinishReason reason);  // "eos", "stop", "length"

struct GenerationRequest {
  std::vector<int32_t> prompt;  // 1 to max_position_embeddings ids
  SamplingOptions sampling;
  int64_t max_new_tokens = 20;         // >= 0
  std::vector<std::string> stop;       // not empty, valid UTF-8
  std::vector<int32_t> eos_token_ids;  // none: only stop strings and length end the text
  uint64_t seed = 0;
  uint64_t sequence = 0;      // index among the sequences returned for one prompt: different draws from one seed
  int64_t num_logprobs = -1;  // -1: none, 0: of the chosen tokens, n: of the n most likely too
};

// Throws std::invalid_argument saying what is wrong with a request, stop strings aside.
void validate(const GenerationRequest& request, const Config& config);

// One new token of one request.
struct GeneratedToken {
  int64_t request = 0;
  int32_t id = -1;   // -1: no token, the request ended without one (max_new_tokens is 0)
  std::string text;  // whole UTF-8 characters that have become certain; all pieces joined are the text
  float logprob = std::numeric_limits<float>::quiet_NaN();  // of the unmodified logits' log-softmax, if asked for
  std::vector<TokenLogprob> top;                            // the most likely tokens, if asked for
  std::optional<FinishReason> finish_reason;                // set with the request's last token
  int64_t num_proposed = 0, num_accepted = 0;               // with the last token: the draft's, over the whole request
};

// A request's tokens put together.
struct GenerationResult {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<float> logprobs;                 // of each token, if asked for
  std::vector<std::vector<TokenLogprob>> top;  // for each token, if asked for
  std::optional<FinishReason> finish_reason;   // empty while it runs
  int64_t num_proposed = 0, num_accepted = 0;  // tokens of the draft

  void append(GeneratedToken&& token, int64_t num_logprobs);
};

}  // namespace pythia
