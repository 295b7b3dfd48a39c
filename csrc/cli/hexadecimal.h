// Hashes as people and programs write them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

namespace pythia::cli {

// Two lower-case digits for each byte.
inline std::string hexadecimal(std::span<const uint8_t> bytes) {
  std::string text;
  for (const uint8_t byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// Sixteen digits.
inline std::string hexadecimal(uint64_t value) {
  std::array<uint8_t, 8> bytes;
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(value >> (56 - 8 * i));
  return hexadecimal(bytes);
}

}  // namespace pythia::cli
