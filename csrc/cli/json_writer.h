// Writes JSON to a string, on one line.
#pragma once

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace pythia::cli {

// Calls must nest as the value does; the writer puts the commas.
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name) {
    string(name);
    text_ += ':';
    needs_comma_ = false;
    return *this;
  }

  // Bytes that are not UTF-8 become U+FFFD, as in decoded text.
  JsonWriter& string(std::string_view value);
  JsonWriter& boolean(bool value) { return raw(value ? "true" : "false"); }
  JsonWriter& null() { return raw("null"); }
  JsonWriter& json(std::string_view value) { return raw(value); }  // a value that is JSON already

  // The shortest digits that read back as the same number; null for NaN and infinities, which JSON lacks.
  template <class Number>
    requires std::integral<Number> || std::floating_point<Number>
  JsonWriter& number(Number value) {
    if (value - value != 0) return null();
    char digits[64];
    return raw({digits, std::to_chars(digits, digits + sizeof digits, value).ptr});
  }

  const std::string& text() const { return text_; }

 private:
  JsonWriter& raw(std::string_view value) {
    separate();
    text_ += value;
    return *this;
  }
  JsonWriter& open(char bracket) {
    separate();
    text_ += bracket;
    needs_comma_ = false;
    return *this;
  }
  JsonWriter& close(char bracket) {
    text_ += bracket;
    needs_comma_ = true;
    return *this;
  }
  void separate() {
    if (needs_comma_) text_ += ',';
    needs_comma_ = true;
  }

  std::string text_;
  bool needs_comma_ = false;
};

}  // namespace pythia::cli
