// Command lines: options come from a table, which also makes the help.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace pythia::cli {

// A command line that makes no sense: exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Option {
  std::string_view name;        // "--top-k"
  char letter;                  // 'k' for -k, 0 for none
  std::string_view value_name;  // "K"; empty: a flag
  std::string help;             // may hold '\n'
  std::function<void(std::string_view value)> set;
};

struct Command {
  std::string_view name;
  std::string_view synopsis;     // what follows the command's name
  std::string_view summary;      // one line
  std::string_view description;  // paragraphs for --help; lines as they are to be printed
  int (*run)(const Command& command, std::span<const std::string_view> arguments);
};

// Calls the options' setters in the order given and returns the other arguments. Values follow as "--name value",
// "--name=value", "-n value" or "-nvalue"; "--" ends the options; "-" is no option. Throws UsageError.
std::vector<std::string_view> parse(std::span<const std::string_view> arguments, std::span<const Option> options);

// True if --help or -h is among the arguments before "--", and is no option's value.
bool wants_help(std::span<const std::string_view> arguments, std::span<const Option> options);

std::string help_text(const Command& command, std::span<const Option> options);

// A help text with the value that an option has where it is not given: "write at most N tokens (default 64)".
std::string with_default(std::string_view help, int64_t value);

// Setters for Option::set. Numbers are read the same in every locale; errors name the option. An empty file name is one: it is
// what a shell makes of a variable that is not set.
Option flag(std::string_view name, char letter, std::string help, bool& target);
Option file_option(std::string_view name, char letter, std::string help, std::string& target);
Option integer_option(std::string_view name, char letter, std::string_view value_name, std::string help, int64_t low,
                      int64_t high, int64_t& target);

// The whole of `text` as a number. Throws UsageError naming `what`.
int64_t parse_integer(std::string_view what, std::string_view text);
uint64_t parse_unsigned(std::string_view what, std::string_view text);
double parse_number(std::string_view what, std::string_view text);

}  // namespace pythia::cli
