// Is this UTF-8?
#pragma once

#include <string_view>

namespace pythia {

// True if `text` is well-formed UTF-8 (Unicode standard, table 3-7): no overlong forms, surrogates or values above U+10FFFF.
bool is_utf8(std::string_view text) noexcept;

}  // namespace pythia
