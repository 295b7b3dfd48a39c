// A request on its way: its tokens so far, its cache, and the text that they make.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "generate/request.h"
#include "generate/sampler.h"
#include "generate/stop_strings.h"
#include "model/kv_cache.h"
#include "text/tokenizer.h"

namespace pythia {

// A token that was chosen for a sequence.
struct ChosenToken {
  int32_t id = kNoToken;
  float logprob = std::numeric_limits<float>::quiet_NaN();
  std::vector<TokenLogprob> top;
};

struct Sequence {
  // Throws std::invalid_argument for bad stop strings.
  Sequence(int64_t request_number, GenerationRequest&& request, const Tokenizer& tokenizer, const Config& config);

  std::span<const int32_t> prompt() const { return std::span(tokens).first(static_cast<std::size_t>(prompt_size)); }
  bool reads_prompt() const { return prompt_read < prompt_size; }
  int64_t num_generated() const { return static_cast<int64_t>(tokens.size()) - prompt_size; }
  int64_t num_left() const { return max_tokens - num_generated(); }

  // True if its tokens are those with the largest logits.
  bool takes_largest() const;

  // Adds a token to the sequence and its text; the result says whether that ends it.
  GeneratedToken accept(ChosenToken&& chosen);

  int64_t number;
  SamplingOptions sampling;
  std::vector<int32_t> eos_token_ids;
  uint64_t seed, draw_sequence;  // of DrawKey
  int64_t num_logprobs;

  std::vector<int32_t> tokens;  // the prompt's and the new ones
  int64_t prompt_size;
  int64_t max_tokens;   // to be generated
  int64_t kv_capacity;  // positions: the last token is never read back
  int64_t prompt_read = 0;
  std::optional<TokenHistory> history;  // for penalties; of the tokens chosen so far
  std::unique_ptr<KvCache> cache;       // while active
  bool finished = false;

  // A prefix that another sequence is to compute first.
  const Sequence* source = nullptr;
  int64_t shared = 0;

  // With a draft model.
  std::unique_ptr<KvCache> draft_cache;
  std::vector<int32_t> unread;  // the last token and the draft's proposals after it
  double recent_accepted = 0, recent_judged = 0;
  int64_t num_proposed = 0, num_accepted = 0;

 private:
  IncrementalDecoder decoder_;
  StopMatcher stop_;
};

}  // namespace pythia
