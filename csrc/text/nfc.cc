#include "text/nfc.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/utf8.h"
#include "text/unicode_tables.h"

namespace pythia {

namespace {

// Hangul syllables are computed (the Unicode Standard, section 3.12).
constexpr uint32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTrailBase = 0x11A7;
constexpr uint32_t kNumLeads = 19, kNumVowels = 21, kNumTrails = 28, kNumSyllables = kNumLeads * kNumVowels * kNumTrails;

// Below U+0300, whose first byte is 0xCC, everything is in NFC.
constexpr uint8_t kFirstUnsureLead = 0xCC;

struct Character {
  uint32_t code_point;
  uint8_t combining_class;
};

void decompose(uint32_t code_point, std::vector<Character>& out) {
  if (code_point - kSyllableBase < kNumSyllables) {
    const uint32_t index = code_point - kSyllableBase;
    out.push_back({kLeadBase + index / (kNumVowels * kNumTrails), 0});
    out.push_back({kVowelBase + index / kNumTrails % kNumVowels, 0});
    if (index % kNumTrails != 0) out.push_back({kTrailBase + index % kNumTrails, 0});
    return;
  }
  const auto& table = unicode::kDecompositions;
  const auto found = std::lower_bound(table.begin(), table.end(), code_point,
                                      [](const unicode::Decomposition& d, uint32_t c) { return d.code_point < c; });
  if (found == table.end() || found->code_point != code_point) {
    out.push_back({code_point, unicode::properties(code_point).combining_class});
    return;
  }
  decompose(found->first, out);
  if (found->second != 0) decompose(found->second, out);
}

// The primary composite of two characters, 0 if there is none.
uint32_t compose(uint32_t first, uint32_t second) noexcept {
  if (first - kLeadBase < kNumLeads && second - kVowelBase < kNumVowels) {
    return kSyllableBase + ((first - kLeadBase) * kNumVowels + (second - kVowelBase)) * kNumTrails;
  }
  if (first - kSyllableBase < kNumSyllables && (first - kSyllableBase) % kNumTrails == 0 &&
      second - (kTrailBase + 1) < kNumTrails - 1) {
    return first + (second - kTrailBase);
  }
  const auto& table = unicode::kCompositions;
  const auto pair_of = [](uint16_t index) {
    const unicode::Decomposition& d = unicode::kDecompositions[index];
    return std::pair(d.first, d.second);
  };
  const std::pair wanted(first, second);
  const auto found = std::lower_bound(table.begin(), table.end(), wanted,
                                      [&](uint16_t index, const auto& pair) { return pair_of(index) < pair; });
  return found != table.end() && pair_of(*found) == wanted ? unicode::kDecompositions[*found].code_point : 0;
}

// Stable order of combining classes within each run of non-starters.
void reorder(std::vector<Character>& characters) {
  const auto is_starter = [](const Character& c) { return c.combining_class == 0; };
  for (auto run = characters.begin(); run != characters.end();) {
    run = std::find_if_not(run, characters.end(), is_starter);
    const auto end = std::find_if(run, characters.end(), is_starter);
    std::stable_sort(run, end, [](const Character& a, const Character& b) { return a.combining_class < b.combining_class; });
    run = end;
  }
}

// Joins, in place, every character with the last starter before it if nothing between blocks it.
void recompose(std::vector<Character>& characters) {
  constexpr std::size_t kNone = SIZE_MAX;
  std::size_t starter = kNone, size = 0;
  for (const Character c : characters) {
    if (starter != kNone) {
      const bool adjacent = size == starter + 1;
      if (adjacent || characters[size - 1].combining_class < c.combining_class) {
        if (const uint32_t composite = compose(characters[starter].code_point, c.code_point)) {
          characters[starter].code_point = composite;
          continue;
        }
      }
    }
    if (c.combining_class == 0) starter = size;
    characters[size++] = c;
  }
  characters.resize(size);
}

}  // namespace

bool is_nfc_quick(std::string_view text) noexcept {
  const auto is_unsure_lead = [](char c) { return static_cast<uint8_t>(c) >= kFirstUnsureLead; };
  std::size_t i = static_cast<std::size_t>(std::find_if(text.begin(), text.end(), is_unsure_lead) - text.begin());
  uint8_t last_class = 0;
  while (i < text.size()) {
    const auto [code_point, size] = utf8::decode(text.data() + i);
    i += size;
    const unicode::Properties& properties = unicode::properties(code_point);
    if (properties.nfc_unsure) return false;
    if (properties.combining_class != 0 && properties.combining_class < last_class) return false;
    last_class = properties.combining_class;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  std::vector<Character> characters;
  characters.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto [code_point, size] = utf8::decode(text.data() + i);
    i += size;
    if (code_point < 0xC0) {
      characters.push_back({code_point, 0});
    } else {
      decompose(code_point, characters);
    }
  }
  reorder(characters);
  recompose(characters);
  std::string result;
  result.reserve(text.size());
  for (const Character& c : characters) utf8::append(c.code_point, result);
  return result;
}

}  // namespace pythia
