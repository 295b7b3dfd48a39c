// GPT-2's pre-tokenizer, which cuts a text into the pieces that BPE works on:
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// Pieces cover the text without gaps, and the first alternative that matches at a place wins.
#pragma once

#include <cstddef>
#include <string_view>

namespace pythia {

// Size in bytes of the first piece of `text`, which is valid UTF-8 and not empty.
std::size_t first_piece_size(std::string_view text) noexcept;

// Whether a code point is white space (\s), for added tokens that strip it.
bool is_white_space(char32_t code_point) noexcept;

}  // namespace pythia
