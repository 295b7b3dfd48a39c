// The Unicode data of the tokenizer: character classes of the GPT-2 pattern, and what NFC needs.
// Made by tools/make_unicode_tables.py from tokenizers 0.23.3; do not edit.
#pragma once

#include <array>
#include <cstdint>

namespace pythia::unicode {

// Everything else, \p{L}, \p{N}, \s.
enum class CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

struct Properties {
  CharClass char_class;
  uint8_t combining_class;  // canonical combining class
  bool nfc_unsure;          // NFC_Quick_Check is No or Maybe
};

// A code point that NFD changes in one step to first, or first second. Hangul syllables are computed instead.
struct Decomposition {
  uint32_t code_point;
  uint32_t first;
  uint32_t second;  // 0: none
};

inline constexpr int kBlockBits = 7;
inline constexpr uint32_t kNumCodePoints = 0x110000;

// The block of a code point without its low kBlockBits bits; and for each block, the low bits' index into kProperties.
extern const std::array<uint8_t, 8704> kBlockIndex;
extern const std::array<uint8_t, 27776> kBlocks;
extern const std::array<Properties, 68> kProperties;

// In the order of code points; and those of them that NFC undoes, in the order of (first, second).
extern const std::array<Decomposition, 2060> kDecompositions;
extern const std::array<uint16_t, 940> kCompositions;

// `code_point` < kNumCodePoints.
inline const Properties& properties(uint32_t code_point) {
  const uint32_t block = kBlockIndex[code_point >> kBlockBits];
  return kProperties[kBlocks[(block << kBlockBits) | (code_point & ((1u << kBlockBits) - 1))]];
}

}  // namespace pythia::unicode
