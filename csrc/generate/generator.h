// Text generation for any number of requests at once (continuous batching): every step runs the model once over all active
// sequences, and a sequence that ends makes room for the next. A request's result never depends on its neighbours.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "generate/chooser.h"
#include "generate/draft.h"
#include "generate/prefix_cache.h"
#include "generate/request.h"
#include "generate/sequence.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace pythia {

struct GeneratorLimits {
  int64_t max_active = 64;          // sequences that run at once
  int64_t max_rows = kRowsPerPass;  // tokens read in one step, over all sequences, as far as prompts can wait
  int64_t max_kv_bytes = 0;         // of all active sequences; one may always run. 0: half of the memory that is free
};

// What a generator can use beside the model.
struct GeneratorAids {
  std::shared_ptr<Model> draft;               // proposes tokens; the same tokenizer
  std::shared_ptr<PrefixCache> prefix_cache;  // of the model
  // Sees the activations of every pass, and may change them. Then each prompt is read in one pass, beginnings are not shared,
  // and there are no other aids.
  std::shared_ptr<Inspector> inspector;
};

// One user at a time; several generators may share a model. A generator may be dropped at any point.
class Generator {
 public:
  // Throws std::invalid_argument if a limit is out of range, or the aids do not go together.
  Generator(std::shared_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer, const GeneratorLimits& limits = {},
            const GeneratorAids& aids = {});
  ~Generator();

  // Queues a request and returns its number: 0, 1, ... Throws std::invalid_argument saying what is wrong with it.
  int64_t add(GenerationRequest request);

  // True when every request has ended.
  bool done() const { return waiting_.empty() && active_.empty(); }

  // How many requests have not begun.
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }

  // The limit that holds. The system is asked once, when it matters: that takes a while.
  int64_t max_kv_bytes();

  // Runs the model once and returns the new tokens, each request's in order; without a draft at most one for a request, and
  // none while long prompts are being read. Throws what TokenChooser::run throws, and std::invalid_argument where the model
  // gives no usable logits; once it has thrown, std::invalid_argument.
  std::vector<GeneratedToken> step();

 private:
  std::vector<GeneratedToken> run_step();
  int64_t kv_bytes(const Sequence& sequence) const;
  void activate_waiting(std::vector<GeneratedToken>& output);
  void start(Sequence& sequence);
  void find_source(Sequence& sequence) const;
  std::vector<Sequence*> ready_sequences() const;
  std::vector<PassPart> make_parts(const std::vector<Sequence*>& ready);
  void take(Sequence& sequence, PassPart& part, std::vector<GeneratedToken>& output);
  void share_prefixes();
  void drop_finished();

  std::shared_ptr<const Tokenizer> tokenizer_;
  GeneratorLimits limits_;
  TokenChooser chooser_;
  std::unique_ptr<DraftProposer> draft_;
  std::shared_ptr<PrefixCache> prefix_cache_;
  bool has_inspector_;
  KvMemory kv_memory_;
  bool failed_ = false;
  int64_t num_requests_ = 0;
  int64_t active_kv_bytes_ = 0;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> active_;
};

}  // namespace pythia
