// The tokenizer section of a .pcpu file, version 1. docs/tokenizer-section.md describes the same thing byte by byte.
//
//   TokenizerHeader                                       128 bytes
//   byte_token_ids     int32  [256]                       the token of each single byte, -1: none
//   merges             MergeRecord [num_merges]           in rank order, the first is merged first
//   token_ends         uint32 [num_tokens]                end of token i's bytes in token_bytes; it starts where i - 1 ends
//   added_tokens       AddedTokenRecord [num_added_tokens]
//   token_bytes        uint8  [token_bytes_size]          what each token decodes to, in the order of ids
//   added_contents     uint8  [added_contents_size]       what each added token matches in a text, in the order of records
//   tokenizer_json     uint8  [json_size]                 the checkpoint's tokenizer.json, unchanged
//
// Each part starts where the one before ends, rounded up to 8; the bytes between are zero, and nothing follows the last part.
// Written by python/pythia_cpu/_tokenizer_export.py, read in place by text/tokenizer_tables.cc. Little-endian.
#pragma once

#include <array>
#include <cstdint>

namespace pythia {

inline constexpr std::array<uint8_t, 8> kTokenizerMagic = {'P', 'C', 'P', 'U', 'T', 'O', 'K', 0};
inline constexpr uint32_t kTokenizerVersion = 1;
inline constexpr uint32_t kMaxTokens = uint32_t{1} << 24;  // num_tokens, num_merges and num_added_tokens
inline constexpr uint32_t kMaxAddedTokenBytes = 1024;      // finding them takes the text's length times the longest
inline constexpr uint64_t kTokenizerAlignment = 8;

enum class Normalizer : uint32_t {
  kNone = 0,
  kNfc = 1,  // Unicode normalization form C
};

// Bits of TokenizerHeader::flags; all others must be zero.
inline constexpr uint32_t kTokenizerAddPrefixSpace = 1;  // a text that does not start with a space gets one

struct TokenizerHeader {
  uint8_t magic[8];
  uint32_t version;
  uint32_t header_size_bytes;  // sizeof(TokenizerHeader)
  uint64_t section_size_bytes;
  uint32_t normalizer;  // Normalizer
  uint32_t flags;
  uint32_t num_tokens;  // highest id + 1
  uint32_t num_merges;
  uint32_t num_added_tokens;
  uint32_t reserved0;  // zero
  uint64_t token_bytes_size;
  uint64_t added_contents_size;
  uint64_t json_size;
  uint8_t reserved[56];  // zero
};
static_assert(sizeof(TokenizerHeader) == 128);

// "left right -> merged" of the BPE; merged's bytes are left's and right's joined.
struct MergeRecord {
  uint32_t left;
  uint32_t right;
  uint32_t merged;
};
static_assert(sizeof(MergeRecord) == 12);

// Bits of AddedTokenRecord::flags, named as in tokenizer.json; all others must be zero.
inline constexpr uint32_t kAddedSpecial = 1;     // left out by decode(skip_special_tokens)
inline constexpr uint32_t kAddedNormalized = 2;  // matched in the normalized text, after the others
inline constexpr uint32_t kAddedLstrip = 4;      // takes the white space on its left
inline constexpr uint32_t kAddedRstrip = 8;      // takes the white space on its right

struct AddedTokenRecord {
  uint32_t id;
  uint32_t flags;
  uint32_t content_end;  // in added_contents; it starts where the record before ends
};
static_assert(sizeof(AddedTokenRecord) == 12);

}  // namespace pythia
