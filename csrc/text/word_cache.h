// The pieces of one text that have been encoded already. Words repeat: most pieces of a long text are found here.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace pythia {

// Remembers where in the growing list of ids a piece's own ids stand, so it copies no text and no ids. One place per hash
// value: a new piece replaces the old one.
class WordCache {
 public:
  static constexpr std::size_t kMaxPieceBytes = 64;

  // For a text of this size. Pieces must stay in memory as long as the cache.
  explicit WordCache(std::size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 16, 16, 16384))), mask_(entries_.size() - 1) {}

  // Appends the piece's ids: copied from where they stand, or else what encode(piece, ids) appends.
  template <class Encode>
  void encode(std::string_view piece, std::vector<int32_t>& ids, Encode&& encode) {
    if (piece.size() > kMaxPieceBytes) return encode(piece, ids);
    const uint64_t hash = hash_of(piece);
    Entry& entry = entries_[(hash ^ hash >> 32) & mask_];
    const std::size_t begin = ids.size();
    if (entry.hash == hash && entry.piece == piece) {
      ids.resize(begin + entry.num_ids);
      std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(entry.begin), entry.num_ids,
                  ids.begin() + static_cast<std::ptrdiff_t>(begin));
      return;
    }
    encode(piece, ids);
    entry = {hash, piece, begin, ids.size() - begin};
  }

 private:
  struct Entry {
    uint64_t hash = 0;
    std::string_view piece;
    std::size_t begin = 0;  // of its ids
    std::size_t num_ids = 0;
  };

  static uint64_t hash_of(std::string_view piece) {
    uint64_t hash = piece.size();
    const char* p = piece.data();
    std::size_t left = piece.size();
    const auto mix = [&hash](uint64_t word) { hash = (std::rotl(hash, 23) ^ word) * 0x9E3779B97F4A7C15u; };
    const auto load = [](const char* at, std::size_t size) {
      uint64_t word = 0;
      std::memcpy(&word, at, size);
      return word;
    };
    for (; left > 8; left -= 8, p += 8) mix(load(p, 8));
    if (left >= 4) {
      mix(load(p, 4) | load(p + left - 4, 4) << 32);
    } else {
      mix(left == 0 ? 0 : load(p, 1) | load(p + left / 2, 1) << 8 | load(p + left - 1, 1) << 16);
    }
    return hash;
  }

  std::vector<Entry> entries_;
  std::size_t mask_;
};

}  // namespace pythia
