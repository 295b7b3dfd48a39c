#include "cli/json_writer.h"

#include "common/utf8.h"

namespace pythia::cli {

JsonWriter& JsonWriter::string(std::string_view value) {
  static constexpr char kHex[] = "0123456789abcdef";
  separate();
  const bool is_text = utf8::is_valid(value);
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
    } else if (byte >= 0x80 && !is_text) {
      text_ += "\\ufffd";
    } else {
      text_ += c;
    }
  }
  text_ += '"';
  return *this;
}

}  // namespace pythia::cli
