#include "common/utf8.h"

#include <cstring>

namespace pythia::utf8 {

namespace {

struct Lead {
  uint8_t size;        // bytes of the character, 0: no character starts so
  uint8_t second_low;  // range of the second byte; the others are 0x80..0xBF
  uint8_t second_high;
};

// Table 3-7 of the Unicode Standard, "Well-Formed UTF-8 Byte Sequences".
Lead lead_of(uint8_t byte) noexcept {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Sequence first_sequence(const char* bytes, std::size_t size) noexcept {
  using Kind = Sequence::Kind;
  const Lead lead = lead_of(static_cast<uint8_t>(bytes[0]));
  if (lead.size == 0) return {Kind::kInvalid, 1};
  for (uint32_t i = 1; i < lead.size; ++i) {
    if (i == size) return {Kind::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? lead.second_low : uint8_t{0x80};
    const uint8_t high = i == 1 ? lead.second_high : uint8_t{0xBF};
    if (byte < low || byte > high) return {Kind::kInvalid, i};
  }
  return {Kind::kValid, lead.size};
}

std::size_t ascii_prefix(std::string_view text) noexcept {
  std::size_t i = 0;
  for (uint64_t word; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) ++i;
  return i;
}

std::size_t valid_prefix(std::string_view text) noexcept {
  std::size_t i = 0;
  while (i < text.size()) {
    i += ascii_prefix(text.substr(i));
    while (i < text.size() && static_cast<uint8_t>(text[i]) >= 0x80) {
      const Sequence sequence = first_sequence(text.data() + i, text.size() - i);
      if (sequence.kind != Sequence::Kind::kValid) return i;
      i += sequence.size;
    }
  }
  return i;
}

std::size_t append_lossy(std::string_view bytes, bool keep_incomplete, std::string& text) {
  std::size_t i = 0;
  while (true) {
    const std::size_t valid = valid_prefix(bytes.substr(i));
    text.append(bytes, i, valid);
    i += valid;
    if (i == bytes.size()) return i;
    const Sequence bad = first_sequence(bytes.data() + i, bytes.size() - i);
    if (keep_incomplete && bad.kind == Sequence::Kind::kIncomplete) return i;
    text += kReplacement;
    i += bad.size;
  }
}

void append(uint32_t code_point, std::string& text) {
  const auto put = [&text](uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else {
    if (code_point < 0x10000) {
      put(0xE0 | code_point >> 12);
    } else {
      put(0xF0 | code_point >> 18);
      put(0x80 | (code_point >> 12 & 0x3F));
    }
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace pythia::utf8
