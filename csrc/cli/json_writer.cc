#include "cli/json_writer.h"

#include "common/utf8.h"

namespace pythia::cli {

JsonWriter& JsonWriter::string(std::string_view value) {
  static constexpr char kHex[] = "0123456789abcdef";
  separate();
  std::string replaced;
  if (!utf8::is_valid(value)) {
    utf8::append_lossy(value, /*keep_incomplete=*/false, replaced);
    value = replaced;
  }
  text_ += '"';
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text_ += '\\';
      text_ += c;
    } else if (c == '\n') {
      text_ += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      text_ += "\\u00";
      text_ += kHex[byte >> 4];
      text_ += kHex[byte & 15];
    } else {
      text_ += c;
    }
  }
  text_ += '"';
  return *this;
}

}  // namespace pythia::cli
