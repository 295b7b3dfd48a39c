#include "cli/args.h"

#include <algorithm>
#include <charconv>

namespace pythia::cli {
namespace {

constexpr std::size_t kHelpColumn = 28;

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

template <class Number>
Number parse_whole(std::string_view what, std::string_view text, std::string_view expected) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty())
    throw UsageError(std::string(what) + " is " + quoted(text) + ", expected " + std::string(expected));
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

}  // namespace

std::vector<std::string_view> parse(std::span<const std::string_view> arguments, std::span<const Option> options) {
  std::vector<std::string_view> rest;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1, arguments.end());
      break;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      rest.push_back(argument);
      continue;
    }
    const bool is_long = argument[1] == '-';
    const std::size_t equals = is_long ? argument.find('=') : std::string_view::npos;
    const std::string_view name = is_long ? argument.substr(0, equals) : argument.substr(0, 2);
    const Option* option = is_long ? find(options, name) : find(options, argument[1]);
    if (option == nullptr) throw UsageError("unknown option " + quoted(name));

    const bool is_attached = is_long ? equals != std::string_view::npos : argument.size() > 2;
    if (option->value_name.empty()) {
      if (is_attached) throw UsageError(std::string(name) + " takes no value, found " + quoted(argument));
      option->set({});
    } else if (is_attached) {
      option->set(argument.substr(is_long ? equals + 1 : 2));
    } else {
      if (++i == arguments.size()) throw UsageError(std::string(name) + " needs a value: " + std::string(option->value_name));
      option->set(arguments[i]);
    }
  }
  return rest;
}

bool wants_help(std::span<const std::string_view> arguments) {
  for (const std::string_view argument : arguments) {
    if (argument == "--") return false;
    if (argument == "--help" || argument == "-h") return true;
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

Option flag(std::string_view name, char letter, std::string_view help, bool& target) {
  return {name, letter, {}, help, [&target](std::string_view) { target = true; }};
}

Option text_option(std::string_view name, char letter, std::string_view value_name, std::string_view help,
                   std::string& target) {
  return {name, letter, value_name, help, [&target](std::string_view value) { target = value; }};
}

Option integer_option(std::string_view name, char letter, std::string_view value_name, std::string_view help, int64_t low,
                      int64_t high, int64_t& target) {
  return {name, letter, value_name, help, [name, low, high, &target](std::string_view value) {
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

double parse_number(std::string_view what, std::string_view text) { return parse_whole<double>(what, text, "a number"); }

}  // namespace pythia::cli
