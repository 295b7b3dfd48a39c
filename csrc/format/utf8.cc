#include "format/utf8.h"

#include <cstdint>

namespace pythia {

bool is_utf8(std::string_view text) noexcept {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    std::size_t length;  // of the character, in bytes
    uint32_t code_point;
    uint32_t smallest;  // that needs this length
    if (lead < 0x80) {
      ++i;
      continue;
    } else if (lead >= 0xc2 && lead < 0xe0) {
      length = 2, code_point = lead & 0x1fu, smallest = 0x80;
    } else if (lead >= 0xe0 && lead < 0xf0) {
      length = 3, code_point = lead & 0x0fu, smallest = 0x800;
    } else if (lead >= 0xf0 && lead < 0xf5) {
      length = 4, code_point = lead & 0x07u, smallest = 0x10000;
    } else {
      return false;
    }
    if (text.size() - i < length) return false;
    for (std::size_t k = 1; k < length; ++k) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      if ((byte & 0xc0u) != 0x80u) return false;
      code_point = code_point << 6 | (byte & 0x3fu);
    }
    if (code_point < smallest || code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) return false;
    i += length;
  }
  return true;
}

}  // namespace pythia
