#include "cli/json_reader.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <unordered_set>

#include "common/utf8.h"

namespace pythia::cli {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  JsonValue parse_whole() {
    if (const std::size_t end = utf8::valid_prefix(text_); end != text_.size()) {
      position_ = end;
      fail("a byte that is not UTF-8", "UTF-8");
    }
    JsonValue value = parse_value(0);
    skip_space();
    if (position_ != text_.size()) fail(found(), "the end");
    return value;
  }

 private:
  using Kind = JsonValue::Kind;

  [[noreturn]] void fail(const std::string& what, const std::string& expected) const {
    throw std::invalid_argument("found " + what + " at byte " + std::to_string(position_ + 1) + ", expected " + expected);
  }
  // What stands here, for a message.
  std::string found() const {
    if (position_ == text_.size()) return "the end";
    const auto byte = static_cast<unsigned char>(text_[position_]);
    if (byte < 0x20 || byte == 0x7f) return "a control character";
    const utf8::CodePoint point = utf8::decode(text_.data() + position_);
    std::string quoted = "'";
    quoted += text_.substr(position_, point.size);
    quoted += '\'';
    if (point.value < 0x80) return quoted;
    char code[16];  // some of the others cannot be seen
    std::snprintf(code, sizeof code, " (U+%04X)", static_cast<unsigned>(point.value));
    return quoted + code;
  }

  char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }
  bool take(char c) {
    if (position_ == text_.size() || text_[position_] != c) return false;
    ++position_;
    return true;
  }
  void skip_space() { position_ = std::min(text_.find_first_not_of(" \t\n\r", position_), text_.size()); }

  JsonValue parse_value(int depth) {
    skip_space();
    switch (peek()) {
      case '{': return parse_object(depth);
      case '[': return parse_array(depth);
      case '"': return {.kind = Kind::kString, .text = parse_string()};
      case 't': return parse_word("true", Kind::kBoolean);
      case 'f': return parse_word("false", Kind::kBoolean);
      case 'n': return parse_word("null", Kind::kNull);
      default: return parse_number();
    }
  }

  JsonValue parse_word(std::string_view word, Kind kind) {
    if (text_.substr(position_, word.size()) != word) fail(found(), "a value");
    position_ += word.size();
    return {.kind = kind, .text = kind == Kind::kNull ? std::string() : std::string(word)};
  }

  void enter(int depth) const {
    if (depth == kMaxJsonDepth) fail("deeper nesting than " + std::to_string(kMaxJsonDepth), "less");
  }

  JsonValue parse_object(int depth) {
    enter(depth);
    JsonValue value = {.kind = Kind::kObject};
    std::unordered_set<std::string> names;
    take('{');
    skip_space();
    if (take('}')) return value;
    do {
      skip_space();
      const std::size_t start = position_;
      if (peek() != '"') fail(found(), "a name in quotes");
      std::string name = parse_string();
      if (!names.insert(name).second) {
        position_ = start;
        fail("the name \"" + name + "\" for the second time", "each name once");
      }
      skip_space();
      if (!take(':')) fail(found(), "':'");
      value.members.emplace_back(std::move(name), parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take('}')) fail(found(), "',' or '}'");
    return value;
  }

  JsonValue parse_array(int depth) {
    enter(depth);
    JsonValue value = {.kind = Kind::kArray};
    take('[');
    skip_space();
    if (take(']')) return value;
    do {
      value.items.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) fail(found(), "',' or ']'");
    return value;
  }

  // -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?
  JsonValue parse_number() {
    const std::size_t start = position_;
    const bool negative = take('-');
    if (!is_digit(peek())) fail(found(), negative ? "a digit" : "a value");
    if (!take('0')) skip_digits();
    if (take('.')) skip_digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      skip_digits();
    }
    return {.kind = Kind::kNumber, .text = std::string(text_.substr(start, position_ - start))};
  }
  void skip_digits() {
    if (!is_digit(peek())) fail(found(), "a digit");
    while (is_digit(peek())) ++position_;
  }

  std::string parse_string() {
    std::string value;
    take('"');
    while (true) {
      const std::size_t end = std::min(text_.find_first_of("\"\\", position_), text_.size());
      const std::string_view plain = text_.substr(position_, end - position_);
      const auto control = std::ranges::find_if(plain, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
      if (control != plain.end()) {
        position_ += static_cast<std::size_t>(control - plain.begin());
        fail("a control character in a string", "its escape");
      }
      value += plain;
      position_ = end;
      if (take('"')) return value;
      if (position_ == text_.size()) fail("the end of the text in a string", "a quote");
      append_escape(value);
    }
  }

  void append_escape(std::string& value) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const std::size_t start = position_;
    take('\\');
    if (const std::size_t i = kLetters.find(peek()); position_ < text_.size() && i != std::string_view::npos) {
      value += kMeanings[i];
      ++position_;
      return;
    }
    uint32_t unit = parse_unit(start);
    const auto is_high = [](uint32_t u) { return u >= 0xD800 && u < 0xDC00; };
    const auto is_low = [](uint32_t u) { return u >= 0xDC00 && u < 0xE000; };
    if (is_high(unit) && text_.substr(position_, 2) == "\\u") {
      take('\\');
      const uint32_t low = parse_unit(start);
      if (is_low(low)) unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }
    if (is_high(unit) || is_low(unit)) {
      position_ = start;
      fail("half of a surrogate pair", "both");
    }
    utf8::append(unit, value);
  }

  // uXXXX, of an escape that began at `start`.
  uint32_t parse_unit(std::size_t start) {
    static constexpr std::string_view kDigits = "0123456789abcdefABCDEF";
    uint32_t unit = 0;
    bool sound = take('u') && text_.size() - position_ >= 4;
    for (int i = 0; sound && i < 4; ++i, ++position_) {
      const std::size_t digit = kDigits.find(text_[position_]);
      sound = digit != std::string_view::npos;
      unit = unit << 4 | static_cast<uint32_t>(digit < 16 ? digit : digit - 6);
    }
    if (!sound) {
      position_ = start;
      fail("an escape that JSON does not have", "one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX");
    }
    return unit;
  }

  std::string_view text_;
  std::size_t position_ = 0;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view name) const noexcept {
  const auto member = std::ranges::find(members, name, &std::pair<std::string, JsonValue>::first);
  return member == members.end() ? nullptr : &member->second;
}

JsonValue parse_json(std::string_view text) { return Parser(text).parse_whole(); }

}  // namespace pythia::cli
