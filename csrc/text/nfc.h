// Unicode normalization form C (Unicode Standard Annex 15), with the reference's data.
#pragma once

#include <string>
#include <string_view>

namespace pythia {

// Whether `text` (valid UTF-8) is surely in NFC already: the annex's quick check. False may also mean "perhaps".
bool is_nfc_quick(std::string_view text) noexcept;

// `text` (valid UTF-8) in NFC. O(n) but for sorting runs of combining marks.
std::string to_nfc(std::string_view text);

}  // namespace pythia
