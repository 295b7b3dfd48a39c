#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <queue>
#include <string>

#include "common/errors.h"

namespace pythia {

namespace {

// Up to this many bytes, looking through all pairs for the lowest rank is faster than a heap.
constexpr std::size_t kShortPiece = 48;

}  // namespace

Bpe::Bpe(const TokenizerTables& tables) : tables_(tables) {
  const Records<MergeRecord>& merges = tables.merges();
  slots_.resize(std::bit_ceil(std::max<std::size_t>(2 * merges.size(), 2)));
  mask_ = slots_.size() - 1;
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const MergeRecord merge = merges[rank];
    const uint64_t pair = uint64_t{merge.left} << 32 | merge.right;
    const auto fail = [rank](const std::string& problem) {
      throw FormatError("[tokenizer] merges[" + std::to_string(rank) + "] " + problem +
                        "; the file is damaged, convert the checkpoint again");
    };
    std::size_t i = hash(pair) & mask_;
    for (std::size_t step = 1; slots_[i].rank != kNoRank; ++step, i = (i + 1) & mask_) {
      if (slots_[i].pair == pair) fail("repeats merges[" + std::to_string(slots_[i].rank) + "], expected distinct pairs");
      if (step == kMostSteps) fail("collides with " + std::to_string(step) + " others, expected those of a vocabulary");
    }
    slots_[i] = {pair, rank, merge.merged};
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() <= kShortPiece) {
    encode_short(piece, ids);
  } else {
    encode_long(piece, ids);
  }
}

void Bpe::encode_short(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;
    Merge with_next;
  };
  std::array<Symbol, kShortPiece> symbols;
  std::size_t size = 0;
  for (const char byte : piece) {
    const int32_t id = tables_.byte_token_id(static_cast<uint8_t>(byte));
    if (id >= 0) symbols[size++] = {id, {}};
  }
  for (std::size_t i = 0; i + 1 < size; ++i) symbols[i].with_next = find(symbols[i].id, symbols[i + 1].id);
  while (size > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < size; ++i) {
      if (symbols[i].with_next.rank < symbols[best].with_next.rank) best = i;
    }
    if (symbols[best].with_next.rank == kNoRank) break;
    symbols[best].id = static_cast<int32_t>(symbols[best].with_next.merged);
    std::copy(symbols.begin() + best + 2, symbols.begin() + size, symbols.begin() + best + 1);
    --size;
    symbols[best].with_next = best + 1 < size ? find(symbols[best].id, symbols[best + 1].id) : Merge{};
    if (best > 0) symbols[best - 1].with_next = find(symbols[best - 1].id, symbols[best].id);
  }
  for (std::size_t i = 0; i < size; ++i) ids.push_back(symbols[i].id);
}

void Bpe::encode_long(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;    // -1: joined into one on its left
    int32_t prev;  // -1: none
    int32_t next;  // -1: none
    Merge with_next;
  };
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char byte : piece) {
    const int32_t id = tables_.byte_token_id(static_cast<uint8_t>(byte));
    const auto index = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, index - 1, index + 1, {}});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  // rank << 32 | index of the left symbol: the smallest is the lowest rank, leftmost.
  std::vector<uint64_t> entries;
  const auto update = [&](int32_t index) {
    Symbol& symbol = symbols[index];
    symbol.with_next = symbol.next < 0 ? Merge{} : find(symbol.id, symbols[symbol.next].id);
    return uint64_t{symbol.with_next.rank} << 32 | static_cast<uint32_t>(index);
  };
  entries.reserve(symbols.size());
  for (int32_t i = 0; i + 1 < static_cast<int32_t>(symbols.size()); ++i) {
    const uint64_t entry = update(i);
    if (symbols[i].with_next.rank != kNoRank) entries.push_back(entry);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(std::greater<>(), std::move(entries));
  const auto push = [&](int32_t index) {
    const uint64_t entry = update(index);
    if (symbols[index].with_next.rank != kNoRank) queue.push(entry);
  };
  while (!queue.empty()) {
    const uint64_t entry = queue.top();
    queue.pop();
    const auto index = static_cast<int32_t>(static_cast<uint32_t>(entry));
    Symbol& symbol = symbols[index];
    // An entry outlives the pair it was made for; only one that still has the pair's rank counts.
    if (symbol.id < 0 || symbol.with_next.rank != static_cast<uint32_t>(entry >> 32)) continue;
    symbol.id = static_cast<int32_t>(symbol.with_next.merged);
    symbols[symbol.next].id = -1;
    symbol.next = symbols[symbol.next].next;
    if (symbol.next >= 0) symbols[symbol.next].prev = index;
    push(index);
    if (symbol.prev >= 0) push(symbol.prev);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace pythia
