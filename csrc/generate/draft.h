// Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318): a small model proposes
// tokens, the large one reads several at once and keeps those that it would have chosen itself.
//
// Each place has its own draw (seed, sequence, step) from the large model's logits, as in plain decoding, so the tokens are
// those of plain decoding, one by one. The small model draws with the same numbers, which makes it agree more often.
//
// The models have one tokenizer, but their vocabularies may be padded to different sizes (Pythia's are: 50304, 50432 and
// 50688). A proposal that is no token of the large model ends the round's proposals, as do logits of the small one that are no
// numbers, and a sequence with a token that the small one does not know gets none from then on.
#pragma once

#include <memory>
#include <span>

#include "generate/chooser.h"
#include "generate/sequence.h"

namespace pythia {

inline constexpr int64_t kMaxProposals = 12;  // in one round

class DraftProposer {
 public:
  DraftProposer(std::shared_ptr<Model> draft, const Model& model);

  // Bytes of a sequence's cache.
  int64_t kv_bytes(const Sequence& sequence) const;

  // Makes the sequence's cache.
  void start(Sequence& sequence, KvMemory& memory) const;

  // Sets `unread` of sequences that have read their prompts: the last token and proposals after it, how many depends on how
  // often they were accepted of late.
  void propose(std::span<Sequence* const> sequences);

  // Counts how many of a sequence's proposals were accepted, and forgets the others.
  void judge(Sequence& sequence, int64_t num_accepted) const;

 private:
  int64_t cache_capacity(const Sequence& sequence) const;
  bool can_read(const Sequence& sequence) const;
  int64_t num_to_propose(const Sequence& sequence, int64_t num_sequences) const;

  TokenChooser chooser_;
  int64_t vocab_size_;  // of the large model
  double draft_cost_;   // of one of its passes, in passes of the large model
};

}  // namespace pythia
