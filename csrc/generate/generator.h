// Text generation for any number of requests at once (continuous batching): every step runs the model once over all active
// sequences, and a sequence that ends makes room for the next. A request's result never depends on its neighbours.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "generate/sampler.h"
#include "generate/sampling_options.h"
#include "generate/softmax.h"
#include "model/model.h"
#include "text/tokenizer.h"

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

// One new token of one request.
struct GeneratedToken {
  int64_t request = 0;
  int32_t id = -1;   // -1: no token, the request ended without one (max_new_tokens is 0)
  std::string text;  // whole UTF-8 characters that have become certain; all pieces joined are the text
  float logprob = std::numeric_limits<float>::quiet_NaN();  // of the unmodified logits' log-softmax, if asked for
  std::vector<TokenLogprob> top;                            // the most likely tokens, if asked for
  std::optional<FinishReason> finish_reason;                // set with the request's last token
};

// A request's tokens put together.
struct GenerationResult {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<float> logprobs;                 // of each token, if asked for
  std::vector<std::vector<TokenLogprob>> top;  // for each token, if asked for
  std::optional<FinishReason> finish_reason;   // empty while it runs

  void append(GeneratedToken&& token, int64_t num_logprobs);
};

struct GeneratorLimits {
  int64_t max_active = 64;                  // sequences that run at once
  int64_t max_prefill_tokens = 512;         // prompt tokens in one step, over all sequences
  int64_t max_kv_bytes = int64_t{4} << 30;  // of all active sequences; one may always run
};

// One user at a time; several generators may share a model. A generator may be dropped at any point.
class Generator {
 public:
  // Throws std::invalid_argument if a limit is below 1.
  Generator(std::shared_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer, const GeneratorLimits& limits = {});
  ~Generator();

  // Queues a request and returns its number: 0, 1, ... Throws std::invalid_argument saying what is wrong with it.
  int64_t add(GenerationRequest request);

  // True when every request has ended.
  bool done() const { return waiting_.empty() && active_.empty(); }

  // Runs the model once and returns the new tokens, at most one for a request; none while long prompts are being read.
  // Throws what Model::forward and Sampler::sample throw.
  std::vector<GeneratedToken> step();

 private:
  struct Sequence;
  void activate_waiting(std::vector<GeneratedToken>& output);
  GeneratedToken next_token(Sequence& sequence, std::span<const float> logits);

  std::shared_ptr<Model> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  GeneratorLimits limits_;
  const KernelTable& kernels_;
  Sampler sampler_;
  int64_t num_requests_ = 0;
  int64_t active_kv_bytes_ = 0;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> active_;
  std::vector<float> logits_;  // [active sequences, vocab_size]
  std::vector<float> maxima_, scratch_;
};

}  // namespace pythia
