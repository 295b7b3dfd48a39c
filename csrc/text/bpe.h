// Byte-pair encoding: joins the neighbours whose merge has the lowest rank, leftmost first, until none is left.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer_tables.h"

namespace pythia {

// Ranks of all merges behind one hash table. Immutable.
class Bpe {
 public:
  // `tables` must outlive the object. Throws FormatError for a pair with two ranks, and for pairs of which thousands collide.
  explicit Bpe(const TokenizerTables& tables);

  // Appends the ids of one piece (`tokenizers`, Word::merge_all). Bytes without a token are dropped, as the reference does
  // without an unk_token. O(n log n).
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  // A pair is less than so many slots from its own; vocabularies need fewer than forty. Without a limit a made-up file could
  // have a search go through all of them.
  static constexpr std::size_t kMostSteps = 1024;
  struct Slot {
    uint64_t pair = UINT64_MAX;  // left << 32 | right
    uint32_t rank = kNoRank;
    uint32_t merged = 0;
  };
  struct Merge {
    uint32_t rank = kNoRank;  // kNoRank: the two do not merge
    uint32_t merged = 0;
  };

  static std::size_t hash(uint64_t pair) { return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15u) >> 32); }
  Merge find(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
    std::size_t i = hash(pair) & mask_;
    for (std::size_t step = 0; step < kMostSteps; ++step, i = (i + 1) & mask_) {
      if (slots_[i].pair == pair) return {slots_[i].rank, slots_[i].merged};
      if (slots_[i].rank == kNoRank) break;
    }
    return {};
  }
  void encode_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view piece, std::vector<int32_t>& ids) const;

  const TokenizerTables& tables_;
  std::vector<Slot> slots_;  // open addressing, at most half full
  std::size_t mask_;
};

}  // namespace pythia
