#include "generate/draft.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "format/tensor_names.h"

namespace pythia {
namespace {

// What one more row adds to a pass, in parts of a pass over one row, which mostly reads the weights: measured with q8.
constexpr double kRowCost = 0.04;

// How much a judged proposal counts for when the next one is judged, and the belief to begin with.
constexpr double kMemory = 0.95, kFirstAccepted = 3.0, kFirstJudged = 4.0;

// Bytes of weights that a pass reads, nearly: of the embedding it needs a row a token.
int64_t weight_bytes(const Model& model) {
  int64_t bytes = 0;
  for (const TensorRecord& tensor : model.file().tensors())
    if (tensor.name != tensor_names::weight(tensor_names::kEmbedIn)) bytes += static_cast<int64_t>(tensor.size_bytes);
  return std::max<int64_t>(bytes, 1);
}

}  // namespace

DraftProposer::DraftProposer(std::shared_ptr<Model> draft, const Model& model)
    : chooser_(std::move(draft)),
      vocab_size_(model.config().vocab_size),
      draft_cost_(static_cast<double>(weight_bytes(chooser_.model())) / static_cast<double>(weight_bytes(model))) {}

int64_t DraftProposer::cache_capacity(const Sequence& sequence) const {
  return std::min<int64_t>(sequence.kv_capacity, chooser_.model().config().max_position_embeddings);
}

int64_t DraftProposer::kv_bytes(const Sequence& sequence) const {
  return cache_capacity(sequence) * chooser_.model().kv_layout().bytes_per_position();
}

void DraftProposer::start(Sequence& sequence, KvMemory& memory) const {
  sequence.draft_cache = std::make_unique<KvCache>(chooser_.model().kv_layout(), cache_capacity(sequence), memory);
  sequence.recent_accepted = kFirstAccepted;
  sequence.recent_judged = kFirstJudged;
}

// Whether the draft knows all tokens that it has not read yet.
bool DraftProposer::can_read(const Sequence& sequence) const {
  const auto unread = std::span(sequence.tokens).subspan(static_cast<std::size_t>(sequence.draft_cache->length()));
  const int64_t known = chooser_.model().config().vocab_size;
  return std::ranges::all_of(unread, [known](int32_t id) { return id < known; });
}

// The number that gives the most tokens for the time, when each is accepted with the probability of late.
int64_t DraftProposer::num_to_propose(const Sequence& sequence, int64_t num_sequences) const {
  if (!can_read(sequence)) return 0;
  // The last token is never read back, and the draft's context may be the shorter one.
  const auto known = static_cast<int64_t>(sequence.tokens.size());
  const int64_t room = std::min(sequence.num_left() - 1, sequence.draft_cache->capacity() - known + 1);
  const double acceptance = sequence.recent_accepted / sequence.recent_judged;
  const double rows = static_cast<double>(num_sequences), draft_pass = draft_cost_ * (1 + rows * kRowCost);
  int64_t best = 1;
  double tokens = 1, run = 1, best_rate = 0;
  for (int64_t count = 1; count <= kMaxProposals; ++count) {
    run *= acceptance;
    tokens += run;
    const double many = static_cast<double>(count);
    const double rate = tokens / (1 + rows * (many + 1) * kRowCost + many * draft_pass);
    if (rate > best_rate) best_rate = rate, best = count;
  }
  return std::clamp<int64_t>(best, 0, std::max<int64_t>(room, 0));
}

void DraftProposer::propose(std::span<Sequence* const> sequences) {
  struct Proposer {
    Sequence* sequence;
    int64_t count;
    std::optional<TokenHistory> history;
  };
  std::vector<Proposer> proposers;
  for (Sequence* sequence : sequences) {
    sequence->unread.assign(1, sequence->tokens.back());
    const int64_t count = num_to_propose(*sequence, static_cast<int64_t>(sequences.size()));
    if (count > 0) proposers.push_back({sequence, count, sequence->history});
  }
  for (int64_t step = 0; !proposers.empty(); ++step) {
    std::vector<PassPart> parts;
    for (Proposer& proposer : proposers) {
      Sequence& sequence = *proposer.sequence;
      // At first, all that the draft has not read yet.
      const std::span<const int32_t> tokens = step == 0 ? sequence.tokens : sequence.unread;
      const auto read = static_cast<std::size_t>(step == 0 ? sequence.draft_cache->length() : step);
      parts.push_back({.slice = {sequence.draft_cache.get(), tokens.subspan(read), 1},
                       .sequence = &sequence,
                       .history = proposer.history ? &*proposer.history : nullptr,
                       .first_step = sequence.num_generated() + step});
    }
    chooser_.run(parts);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const int32_t id = parts[i].chosen.front().id;
      if (id != kNoToken && id < vocab_size_)
        proposers[i].sequence->unread.push_back(id);
      else
        proposers[i].count = step + 1;
    }
    std::erase_if(proposers, [&](const Proposer& proposer) { return proposer.count == step + 1; });
  }
}

void DraftProposer::judge(Sequence& sequence, int64_t num_accepted) const {
  const auto proposed = static_cast<int64_t>(sequence.unread.size()) - 1;
  sequence.num_proposed += proposed;
  sequence.num_accepted += num_accepted;
  for (int64_t i = 0; i < std::min(num_accepted + 1, proposed); ++i) {
    sequence.recent_judged = sequence.recent_judged * kMemory + 1;
    sequence.recent_accepted = sequence.recent_accepted * kMemory + (i < num_accepted ? 1 : 0);
  }
  const auto length = static_cast<int64_t>(sequence.tokens.size()) - 1;
  sequence.draft_cache->truncate(std::min(sequence.draft_cache->length(), length));
}

}  // namespace pythia
