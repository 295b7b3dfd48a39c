#include "cli/args.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <utility>

namespace pythia::cli {
namespace {

constexpr std::size_t kHelpColumn = 28;

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

[[noreturn]] void throw_not(std::string_view expected, std::string_view what, std::string_view text) {
  throw UsageError(std::string(what) + " is " + quoted(text) + ", expected " + std::string(expected));
}

template <class Integer>
Integer parse_whole(std::string_view what, std::string_view text, std::string_view expected) {
  Integer value{};
  const std::size_t sign = text.starts_with('+') && !text.starts_with("+-");  // from_chars takes no plus
  const auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) throw_not(expected, what, text);
  return value;
}

const Option* find(std::span<const Option> options, std::string_view name) {
  const auto it = std::find_if(options.begin(), options.end(), [&](const Option& o) { return o.name == name; });
  return it == options.end() ? nullptr : &*it;
}

const Option* find(std::span<const Option> options, char letter) {
  const auto it = std::find_if(options.begin(), options.end(), [&](const Option& o) { return o.letter == letter; });
  return it == options.end() ? nullptr : &*it;
}

// An argument that is an option, "--name", "--name=value", "-n" or "-nvalue", taken apart.
struct OptionArgument {
  std::string_view name;
  std::optional<std::string_view> attached;  // the value
  const Option* option;                      // nullptr: unknown

  bool takes_next() const { return option != nullptr && !option->value_name.empty() && !attached; }
};

// Nothing for an argument that is no option.
std::optional<OptionArgument> take_apart(std::string_view argument, std::span<const Option> options) {
  if (argument.size() < 2 || argument[0] != '-') return std::nullopt;
  if (argument[1] != '-') {
    const auto value = argument.size() > 2 ? std::optional(argument.substr(2)) : std::nullopt;
    return OptionArgument{argument.substr(0, 2), value, find(options, argument[1])};
  }
  const std::size_t equals = argument.find('=');
  const std::string_view name = argument.substr(0, equals);
  const auto value = equals != std::string_view::npos ? std::optional(argument.substr(equals + 1)) : std::nullopt;
  return OptionArgument{name, value, find(options, name)};
}

}  // namespace

std::vector<std::string_view> parse(std::span<const std::string_view> arguments, std::span<const Option> options) {
  std::vector<std::string_view> rest;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    const auto found = take_apart(argument, options);
    if (!found) {
      rest.push_back(argument);
      continue;
    }
    const auto& [name, attached, option] = *found;
    if (option == nullptr) throw UsageError("unknown option " + quoted(name));
    if (!found->takes_next()) {
      if (attached && option->value_name.empty())
        throw UsageError(std::string(name) + " takes no value, found " + quoted(argument));
      option->set(attached.value_or(std::string_view()));
    } else {
      if (++i == arguments.size()) throw UsageError(std::string(name) + " needs a value: " + std::string(option->value_name));
      option->set(arguments[i]);
    }
  }
  return rest;
}

bool wants_help(std::span<const std::string_view> arguments, std::span<const Option> options) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--") return false;
    if (arguments[i] == "--help" || arguments[i] == "-h") return true;
    if (const auto found = take_apart(arguments[i], options); found && found->takes_next()) ++i;
  }
  return false;
}

std::string help_text(const Command& command, std::span<const Option> options) {
  std::string text = "usage: pythia-cpu " + std::string(command.name) + " " + std::string(command.synopsis) + "\n\n" +
                     std::string(command.description) + "\nOptions:\n";
  const auto add = [&](char letter, std::string_view name, std::string_view value_name, std::string_view help) {
    std::string left = letter ? std::string("  -") + letter + ", " : "      ";
    left += name;
    if (!value_name.empty()) left.append(1, ' ').append(value_name);
    if (left.size() + 2 > kHelpColumn) {
      text += left + "\n";
      left.clear();
    }
    left.resize(kHelpColumn, ' ');
    text += left;
    for (const char c : help) {
      text += c;
      if (c == '\n') text.append(kHelpColumn, ' ');
    }
    text += '\n';
  };
  for (const Option& option : options) add(option.letter, option.name, option.value_name, option.help);
  add('h', "--help", {}, "show this help");
  return text;
}

std::string with_default(std::string_view help, int64_t value) {
  return std::string(help) + " (default " + std::to_string(value) + ")";
}

Option flag(std::string_view name, char letter, std::string help, bool& target) {
  return {name, letter, {}, std::move(help), [&target](std::string_view) { target = true; }};
}

Option file_option(std::string_view name, char letter, std::string help, std::string& target) {
  return {name, letter, "FILE", std::move(help), [name, &target](std::string_view value) {
            if (value.empty()) throw UsageError(std::string(name) + " is empty, expected a file's name");
            target = value;
          }};
}

Option integer_option(std::string_view name, char letter, std::string_view value_name, std::string help, int64_t low,
                      int64_t high, int64_t& target) {
  return {name, letter, value_name, std::move(help), [name, low, high, &target](std::string_view value) {
            const int64_t number = parse_integer(name, value);
            if (number < low || number > high)
              throw UsageError(std::string(name) + " is " + std::string(value) + ", expected " + std::to_string(low) + " to " +
                               std::to_string(high));
            target = number;
          }};
}

int64_t parse_integer(std::string_view what, std::string_view text) {
  return parse_whole<int64_t>(what, text, "a whole number");
}

uint64_t parse_unsigned(std::string_view what, std::string_view text) {
  return parse_whole<uint64_t>(what, text, "a whole number from 0 to 18446744073709551615");
}

// By strtod, in the C locale that the binary keeps: LLVM's library before 20, and Apple's, have from_chars for integers only.
double parse_number(std::string_view what, std::string_view text) {
  const std::string whole(text);
  char* end = nullptr;
  errno = 0;
  const double value = std::strtod(whole.c_str(), &end);
  const bool number =
      !whole.empty() && end == whole.c_str() + whole.size() && whole.find_first_of(" \f\n\r\t\vxX(") == whole.npos;
  if (!number || (errno == ERANGE && std::abs(value) > 1)) throw_not("a number", what, text);
  return value;
}

}  // namespace pythia::cli
