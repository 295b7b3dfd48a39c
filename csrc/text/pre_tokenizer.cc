#include "text/pre_tokenizer.h"

#include <array>
#include <cstdint>

#include "common/utf8.h"
#include "text/unicode_tables.h"

namespace pythia {

namespace {

using unicode::CharClass;

constexpr std::array<CharClass, 128> kAsciiClass = [] {
  std::array<CharClass, 128> table{};
  for (int c = '0'; c <= '9'; ++c) table[c] = CharClass::kNumber;
  for (int c = 'A'; c <= 'Z'; ++c) table[c] = table[c - 'A' + 'a'] = CharClass::kLetter;
  for (int c = '\t'; c <= '\r'; ++c) table[c] = CharClass::kSpace;
  table[' '] = CharClass::kSpace;
  return table;
}();

struct Classified {
  CharClass char_class;
  uint32_t size;
};

inline Classified classify(const char* p) noexcept {
  const auto byte = static_cast<uint8_t>(*p);
  if (byte < 0x80) return {kAsciiClass[byte], 1};
  const auto [code_point, size] = utf8::decode(p);
  return {unicode::properties(code_point).char_class, size};
}

inline const char* skip(CharClass char_class, const char* p, const char* end) noexcept {
  while (p != end) {
    const Classified next = classify(p);
    if (next.char_class != char_class) break;
    p += next.size;
  }
  return p;
}

// Size of the contraction 's 't 're 've 'm 'll 'd at `p` (an apostrophe), or 0.
inline std::size_t contraction_size(const char* p, const char* end) noexcept {
  if (end - p < 2) return 0;
  switch (p[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd': return 2;
    case 'r':
    case 'v': return end - p > 2 && p[2] == 'e' ? 3 : 0;
    case 'l': return end - p > 2 && p[2] == 'l' ? 3 : 0;
    default: return 0;
  }
}

}  // namespace

std::size_t first_piece_size(std::string_view text) noexcept {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  if (*begin == '\'') {
    if (const std::size_t size = contraction_size(begin, end)) return size;
  }
  const char* p = begin;
  if (*p == ' ' && end - p > 1) ++p;
  const Classified first = classify(p);
  if (first.char_class != CharClass::kSpace) {
    return static_cast<std::size_t>(skip(first.char_class, p + first.size, end) - begin);
  }
  // A run of white space leaves its last character to a word that follows, unless it is that one character.
  const char* last = begin;
  for (p = begin; p != end;) {
    const Classified next = classify(p);
    if (next.char_class != CharClass::kSpace) break;
    last = p;
    p += next.size;
  }
  return static_cast<std::size_t>((p == end || last == begin ? p : last) - begin);
}

bool is_white_space(char32_t code_point) noexcept { return unicode::properties(code_point).char_class == CharClass::kSpace; }

}  // namespace pythia
