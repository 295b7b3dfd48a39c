#include "generate/generator.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/memory.h"

namespace pythia {
namespace {

// The shortest prefix that is worth waiting for another sequence to compute it.
constexpr int64_t kMinShared = 16;

// Prompt tokens that are read in a step even when sequences that write fill it.
constexpr int64_t kMinPromptRows = 32;

constexpr int64_t kMinKvBytes = int64_t{64} << 20;

const GeneratorLimits& checked(const GeneratorLimits& limits) {
  const auto check = [](const char* name, int64_t value, int64_t least) {
    if (value < least)
      throw std::invalid_argument("[generate] " + std::string(name) + " is " + std::to_string(value) + ", expected at least " +
                                  std::to_string(least));
  };
  check("max_active", limits.max_active, 1);
  check("max_rows", limits.max_rows, 1);
  check("max_kv_bytes", limits.max_kv_bytes, 0);
  return limits;
}

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

}  // namespace

Generator::Generator(std::shared_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer, const GeneratorLimits& limits,
                     const GeneratorAids& aids)
    : tokenizer_(std::move(tokenizer)),
      limits_(checked(limits)),
      chooser_(std::move(model), aids.inspector),
      draft_(aids.draft ? std::make_unique<DraftProposer>(aids.draft, chooser_.model()) : nullptr),
      prefix_cache_(aids.prefix_cache),
      has_inspector_(aids.inspector != nullptr) {
  if (prefix_cache_ && prefix_cache_->layout() != chooser_.model().kv_layout())
    throw std::invalid_argument(
        "[generate] the prefix cache was made for a model of another shape or weight format: make one for this model");
  if (has_inspector_ && (draft_ || prefix_cache_))
    throw std::invalid_argument("[generate] an inspector came with a draft or a prefix cache, expected one of them only");
}

Generator::~Generator() = default;

int64_t Generator::add(GenerationRequest request) {
  const Config& config = chooser_.model().config();
  validate(request, config);
  waiting_.push_back(std::make_unique<Sequence>(num_requests_, std::move(request), *tokenizer_, config));
  return num_requests_++;
}

int64_t Generator::kv_bytes(const Sequence& sequence) const {
  const int64_t own = sequence.kv_capacity * chooser_.model().kv_layout().bytes_per_position();
  return own + (draft_ ? draft_->kv_bytes(sequence) : 0);
}

int64_t Generator::max_kv_bytes() {
  if (limits_.max_kv_bytes == 0) limits_.max_kv_bytes = std::max(kMinKvBytes, available_memory_bytes() / 2);
  return limits_.max_kv_bytes;
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
                      (active_.empty() || active_kv_bytes_ + kv_bytes(next) <= max_kv_bytes());
    if (!fits) return;
    start(next);
    active_kv_bytes_ += kv_bytes(next);
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Generator::start(Sequence& sequence) {
  const KvLayout layout = chooser_.model().kv_layout();
  const bool alone = active_.empty() && waiting_.size() == 1;  // a huge page would take longer to clear than it saves
  sequence.cache = alone ? std::make_unique<KvCache>(layout, sequence.kv_capacity)
                         : std::make_unique<KvCache>(layout, sequence.kv_capacity, kv_memory_);
  if (draft_) draft_->start(sequence, kv_memory_);
  // The last token is always read, for its logits.
  const auto shareable = sequence.prompt().first(static_cast<std::size_t>(sequence.prompt_size - 1));
  if (prefix_cache_) sequence.prompt_read = prefix_cache_->read(shareable, *sequence.cache);
  if (!has_inspector_) find_source(sequence);  // what it changes in one prompt need not be what it changes in another
}

// Looks for an active sequence whose prompt begins alike for longer than what is known already.
void Generator::find_source(Sequence& sequence) const {
  sequence.shared = sequence.prompt_read + kMinShared - 1;
  for (const auto& other : active_) {
    const int64_t shared = std::min(common_prefix(sequence.prompt(), other->prompt()), sequence.prompt_size - 1);
    if (shared > sequence.shared) {
      sequence.shared = shared;
      sequence.source = other.get();
    }
  }
}

// Copies what sequences have waited for.
void Generator::share_prefixes() {
  for (const auto& sequence : active_) {
    if (sequence->source == nullptr || sequence->source->cache->length() < sequence->shared) continue;
    sequence->cache->copy_prefix(*sequence->source->cache, sequence->shared);
    sequence->prompt_read = sequence->shared;
    sequence->source = nullptr;
  }
}

std::vector<Sequence*> Generator::ready_sequences() const {
  std::vector<Sequence*> ready;
  for (const auto& sequence : active_)
    if (sequence->source == nullptr) ready.push_back(sequence.get());
  return ready;
}

// Sequences that write go first: they end, and make room for others.
std::vector<PassPart> Generator::make_parts(const std::vector<Sequence*>& ready) {
  std::vector<Sequence*> writing;
  std::ranges::copy_if(ready, std::back_inserter(writing), [](const Sequence* sequence) { return !sequence->reads_prompt(); });
  if (draft_) draft_->propose(writing);
  std::vector<PassPart> parts;
  int64_t rows = 0;
  for (Sequence* sequence : writing) {
    if (!draft_) sequence->unread.assign(1, sequence->tokens.back());
    const std::span<const int32_t> tokens = sequence->unread;
    parts.push_back({.slice = {sequence->cache.get(), tokens, static_cast<int64_t>(tokens.size())},
                     .sequence = sequence,
                     .expected = tokens.subspan(1)});
    rows += static_cast<int64_t>(tokens.size());
  }
  int64_t room = std::max(limits_.max_rows - rows, std::min(kMinPromptRows, limits_.max_rows));
  for (Sequence* sequence : ready) {
    if (!sequence->reads_prompt() || room == 0) continue;
    const auto rest = sequence->prompt().subspan(static_cast<std::size_t>(sequence->prompt_read));
    // An inspector sees a prompt as a whole.
    const auto tokens = has_inspector_ ? rest : rest.first(std::min(rest.size(), static_cast<std::size_t>(room)));
    room = std::max<int64_t>(0, room - static_cast<int64_t>(tokens.size()));
    parts.push_back({.slice = {sequence->cache.get(), tokens, tokens.size() == rest.size() ? 1 : 0}, .sequence = sequence});
  }
  for (PassPart& part : parts) {
    part.history = part.sequence->history ? &*part.sequence->history : nullptr;
    part.first_step = part.sequence->num_generated();
    part.num_logprobs = part.sequence->num_logprobs;
  }
  return parts;
}

// Adds what was chosen to a sequence, until that ends it.
void Generator::take(Sequence& sequence, PassPart& part, std::vector<GeneratedToken>& output) {
  const bool reads_prompt = sequence.reads_prompt();
  if (reads_prompt) sequence.prompt_read += static_cast<int64_t>(part.slice.tokens.size());
  int64_t num_accepted = 0;
  for (std::size_t i = 0; i < part.chosen.size() && !sequence.finished; ++i) {
    if (part.chosen[i].id == kNoToken) throw_no_token();
    num_accepted += i < part.expected.size() && part.chosen[i].id == part.expected[i];
    output.push_back(sequence.accept(std::move(part.chosen[i])));
  }
  if (reads_prompt) return;
  sequence.cache->truncate(static_cast<int64_t>(sequence.tokens.size()) - 1);
  if (draft_) draft_->judge(sequence, num_accepted);
  if (sequence.finished) {
    output.back().num_proposed = sequence.num_proposed;
    output.back().num_accepted = sequence.num_accepted;
  }
}

std::vector<GeneratedToken> Generator::step() {
  if (failed_)
    throw std::invalid_argument("[generate] an earlier step failed, and this generator cannot go on: make a new one");
  failed_ = true;  // until the step ends: caches may be ahead of the tokens
  std::vector<GeneratedToken> output = run_step();
  failed_ = false;
  return output;
}

std::vector<GeneratedToken> Generator::run_step() {
  std::vector<GeneratedToken> output;
  activate_waiting(output);
  share_prefixes();
  std::vector<PassPart> parts = make_parts(ready_sequences());
  if (parts.empty()) return output;
  chooser_.run(parts);
  for (PassPart& part : parts) take(*part.sequence, part, output);
  share_prefixes();  // before a source is dropped
  drop_finished();
  return output;
}

void Generator::drop_finished() {
  std::erase_if(active_, [&](const auto& sequence) {
    if (!sequence->finished) return false;
    if (prefix_cache_) prefix_cache_->write(sequence->tokens, *sequence->cache);
    active_kv_bytes_ -= kv_bytes(*sequence);
    return true;
  });
}

}  // namespace pythia
