#include "generate/generator.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/fp_environment.h"
#include "generate/stop_strings.h"
#include "kernels/dispatch.h"

namespace pythia {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument("[generate] " + message); }

void validate(const GenerationRequest& request, const Config& config) {
  const int64_t size = static_cast<int64_t>(request.prompt.size());
  if (size == 0)
    refuse("the prompt has no tokens, expected at least one: to start from nothing pass the end-of-text token, e.g. [" +
           std::to_string(std::max(config.eos_token_id, 0)) + "]");
  if (size > config.max_position_embeddings)
    refuse("the prompt has " + std::to_string(size) + " tokens, the model's context holds " +
           std::to_string(config.max_position_embeddings) + ": shorten it");
  for (const int32_t id : request.prompt)
    if (id < 0 || id >= config.vocab_size)
      refuse("the prompt has token id " + std::to_string(id) + ", expected 0 to " + std::to_string(config.vocab_size - 1));
  for (const int32_t id : request.eos_token_ids)
    if (id < 0 || id >= config.vocab_size)
      refuse("eos_token_id is " + std::to_string(id) + ", expected 0 to " + std::to_string(config.vocab_size - 1));
  if (request.max_new_tokens < 0)
    refuse("max_new_tokens is " + std::to_string(request.max_new_tokens) + ", expected 0 or more");
  if (request.num_logprobs < -1 || request.num_logprobs > config.vocab_size)
    refuse("logprobs is " + std::to_string(request.num_logprobs) + ", expected 0 to " + std::to_string(config.vocab_size) +
           " most likely tokens");
  validate(request.sampling, config.vocab_size);
}

}  // namespace

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos: return "eos";
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
  }
  return {};
}

void GenerationResult::append(GeneratedToken&& token, int64_t num_logprobs) {
  text += token.text;
  finish_reason = token.finish_reason;
  if (token.id < 0) return;
  tokens.push_back(token.id);
  if (num_logprobs >= 0) logprobs.push_back(token.logprob);
  if (num_logprobs > 0) top.push_back(std::move(token.top));
}

// A request on its way.
struct Generator::Sequence {
  Sequence(int64_t request_number, GenerationRequest&& r, const Tokenizer& tokenizer, const Config& config)
      : number(request_number), request(std::move(r)), decoder(tokenizer), stop(std::move(request.stop)) {
    const int64_t prompt_size = static_cast<int64_t>(request.prompt.size());
    // The last position of a full context still predicts a token, which cannot be read back.
    const int64_t room = config.max_position_embeddings - prompt_size + 1;
    max_tokens = std::min(request.max_new_tokens, room);
    kv_capacity = std::max(prompt_size, prompt_size + max_tokens - 1);
    kv_bytes = kv_capacity * KvCache::bytes_per_position(config);
    if (request.sampling.has_history_terms()) history.emplace(request.prompt);
  }

  bool reads_prompt() const { return prompt_read < static_cast<int64_t>(request.prompt.size()); }

  int64_t number;
  GenerationRequest request;
  IncrementalDecoder decoder;
  StopMatcher stop;
  std::optional<TokenHistory> history;
  std::unique_ptr<KvCache> cache;  // while active
  int64_t max_tokens = 0;
  int64_t kv_capacity = 0;
  int64_t kv_bytes = 0;
  int64_t prompt_read = 0;  // prompt tokens in the cache
  int64_t num_generated = 0;
  int32_t last_token = -1;
  bool finished = false;
};

Generator::Generator(std::shared_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer, const GeneratorLimits& limits)
    : model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      limits_(limits),
      kernels_(select_kernels(model_->isa())),
      sampler_(kernels_) {
  if (limits.max_active < 1) refuse("max_active is " + std::to_string(limits.max_active) + ", expected at least 1");
  if (limits.max_prefill_tokens < 1)
    refuse("max_prefill_tokens is " + std::to_string(limits.max_prefill_tokens) + ", expected at least 1");
  if (limits.max_kv_bytes < 1) refuse("max_kv_bytes is " + std::to_string(limits.max_kv_bytes) + ", expected at least 1");
}

Generator::~Generator() = default;

int64_t Generator::add(GenerationRequest request) {
  validate(request, model_->config());
  waiting_.push_back(std::make_unique<Sequence>(num_requests_, std::move(request), *tokenizer_, model_->config()));
  return num_requests_++;
}

// Moves waiting requests, in order, to where there is room. Requests for no tokens end at once.
void Generator::activate_waiting(std::vector<GeneratedToken>& output) {
  while (!waiting_.empty()) {
    Sequence& next = *waiting_.front();
    if (next.max_tokens == 0) {
      GeneratedToken none;
      none.request = next.number;
      none.finish_reason = FinishReason::kLength;
      output.push_back(std::move(none));
      waiting_.pop_front();
      continue;
    }
    const bool fits = static_cast<int64_t>(active_.size()) < limits_.max_active &&
                      (active_.empty() || active_kv_bytes_ + next.kv_bytes <= limits_.max_kv_bytes);
    if (!fits) return;
    next.cache = std::make_unique<KvCache>(model_->config(), next.kv_capacity);
    active_kv_bytes_ += next.kv_bytes;
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

std::vector<GeneratedToken> Generator::step() {
  const FpEnvironment fp_environment;
  std::vector<GeneratedToken> output;
  activate_waiting(output);

  std::vector<SequenceSlice> slices;
  std::vector<Sequence*> owners;
  int64_t prefill_room = limits_.max_prefill_tokens, num_logits = 0;
  for (const auto& sequence : active_) {
    SequenceSlice slice{sequence->cache.get(), {&sequence->last_token, 1}, 1};
    if (sequence->reads_prompt()) {
      const auto rest = std::span<const int32_t>(sequence->request.prompt).subspan(static_cast<size_t>(sequence->prompt_read));
      slice.tokens = rest.first(std::min(rest.size(), static_cast<size_t>(prefill_room)));
      if (slice.tokens.empty()) continue;
      prefill_room -= static_cast<int64_t>(slice.tokens.size());
      slice.num_logits = slice.tokens.size() == rest.size() ? 1 : 0;
    }
    num_logits += slice.num_logits;
    slices.push_back(slice);
    owners.push_back(sequence.get());
  }
  if (slices.empty()) return output;

  const size_t vocab_size = static_cast<size_t>(model_->config().vocab_size);
  if (logits_.size() < static_cast<size_t>(num_logits) * vocab_size)
    logits_.resize(static_cast<size_t>(num_logits) * vocab_size);
  model_->forward(slices, logits_.data());

  size_t row = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    if (owners[i]->reads_prompt()) owners[i]->prompt_read += static_cast<int64_t>(slices[i].tokens.size());
    if (slices[i].num_logits == 0) continue;
    output.push_back(next_token(*owners[i], {logits_.data() + row * vocab_size, vocab_size}));
    ++row;
  }
  std::erase_if(active_, [&](const auto& sequence) {
    if (sequence->finished) active_kv_bytes_ -= sequence->kv_bytes;
    return sequence->finished;
  });
  return output;
}

GeneratedToken Generator::next_token(Sequence& sequence, std::span<const float> logits) {
  const GenerationRequest& request = sequence.request;
  GeneratedToken token;
  token.request = sequence.number;
  const DrawKey draw{request.seed, request.sequence, static_cast<uint64_t>(sequence.num_generated)};
  token.id = sampler_.sample(logits, request.sampling, sequence.history ? &*sequence.history : nullptr, draw);
  if (request.num_logprobs >= 0) {
    const LogSoftmax log_softmax(kernels_, logits, maxima_);
    token.logprob = log_softmax.of(token.id);
    token.top = log_softmax.top(request.num_logprobs, scratch_);
  }
  sequence.last_token = token.id;
  ++sequence.num_generated;
  if (sequence.history) sequence.history->add_generated(token.id);

  const auto& eos = request.eos_token_ids;
  if (std::find(eos.begin(), eos.end(), token.id) != eos.end()) {
    token.finish_reason = FinishReason::kEos;
  } else {
    token.text = sequence.stop.push(sequence.decoder.push(token.id));
    if (sequence.num_generated == sequence.max_tokens) token.finish_reason = FinishReason::kLength;
  }
  if (token.finish_reason && !sequence.stop.stopped()) {
    token.text += sequence.stop.push(sequence.decoder.finish());
    if (!sequence.stop.stopped()) token.text += sequence.stop.finish();
  }
  if (sequence.stop.stopped()) token.finish_reason = FinishReason::kStop;
  sequence.finished = token.finish_reason.has_value();
  return token;
}

}  // namespace pythia
