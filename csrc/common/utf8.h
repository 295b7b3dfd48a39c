// UTF-8, as Rust's str and String::from_utf8_lossy see it: no surrogates, nothing overlong, nothing above U+10FFFF (Unicode
// Standard, table 3-7).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pythia::utf8 {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What stands at the start of some bytes.
struct Sequence {
  enum class Kind : uint8_t { kValid, kInvalid, kIncomplete };
  Kind kind;      // kIncomplete: the bytes end inside what may become a character
  uint32_t size;  // kValid: the character's bytes; else the longest start of a character there, which one U+FFFD replaces
};

// `size` >= 1.
Sequence first_sequence(const char* bytes, std::size_t size) noexcept;

// Offset of the first byte that is not part of a valid character, or text.size().
std::size_t valid_prefix(std::string_view text) noexcept;

inline bool is_valid(std::string_view text) noexcept { return valid_prefix(text) == text.size(); }

// Length of the leading run of ASCII.
std::size_t ascii_prefix(std::string_view text) noexcept;

// Appends `bytes` to `text`, with U+FFFD for each maximal part that is not UTF-8. With `keep_incomplete`, an incomplete
// character at the end is left out. Returns how many bytes were used.
std::size_t append_lossy(std::string_view bytes, bool keep_incomplete, std::string& text);

struct CodePoint {
  uint32_t value;
  uint32_t size;  // bytes
};

// The first character of valid UTF-8.
inline CodePoint decode(const char* p) noexcept {
  const auto byte = [p](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(p[i])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

// The last character of valid, not empty UTF-8.
inline CodePoint decode_last(std::string_view text) noexcept {
  std::size_t start = text.size() - 1;
  while ((static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return decode(text.data() + start);
}

// Appends one code point (not a surrogate).
void append(uint32_t code_point, std::string& text);

}  // namespace pythia::utf8
