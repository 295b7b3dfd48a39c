// pythia-cpu: generation and inspection of .pcpu models from the command line.
#include <csignal>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/io.h"
#include "common/errors.h"

namespace pythia::cli {
namespace {

const Command* const kCommands[] = {&kGenerateCommand, &kScoreCommand,  &kTokenizeCommand,
                                    &kInfoCommand,     &kVerifyCommand, &kBenchCommand};

std::string overview() {
  std::string text =
      "usage: pythia-cpu COMMAND [OPTION]... [ARGUMENT]\n\n"
      "Runs Pythia and other GPT-NeoX language models on the CPU, from one .pcpu file.\n\nCommands:\n";
  for (const Command* command : kCommands) {
    std::string name = "  " + std::string(command->name);
    name.resize(14, ' ');
    text += name + std::string(command->summary) + "\n";
  }
  text +=
      "\nExamples:\n"
      "  pythia-cpu generate \"Once upon a time\"\n"
      "  pythia-cpu generate -m pythia-70m.pcpu -n 200 --temperature 0.8 --top-p 0.95 --seed 1 \"The\"\n"
      "  pythia-cpu info pythia-70m.pcpu\n\n"
      "Without -m the small model that ships with pythia-cpu is used, or the file that PYTHIA_CPU_MODEL\n"
      "names. `pythia-cpu COMMAND --help` explains a command, `pythia-cpu --version` says which version this\n"
      "is. Make .pcpu files with pythia-convert, which comes with the Python package.\n\n"
      "Exit status: 0 success, 1 an error (one line on standard error), 2 a command line that makes no\n"
      "sense, 130 ended by Ctrl-C, 143 by SIGTERM.\n";
  return text;
}

// An error's text without the library's "[part] ", which is for those who write programs with it: at its beginning, or after
// the "file: " or "line: " that it has been given.
std::string for_users(std::string message) {
  for (const std::string_view part : kErrorParts)
    for (std::size_t at = message.find(part); at != std::string::npos; at = message.find(part, at + 1))
      if (at == 0 || (at >= 2 && message.compare(at - 2, 2, ": ") == 0)) return message.erase(at, part.size());
  return message;
}

int run_command(const Command& command, std::span<const std::string_view> arguments) {
  try {
    return command.run(command, arguments);
  } catch (const UsageError& error) {
    const std::string name(command.name);
    throw UsageError(name + ": " + error.what() + "; see pythia-cpu " + name + " --help");
  }
}

int run(std::span<const std::string_view> arguments) {
  if (arguments.empty()) throw UsageError("no command given; see pythia-cpu --help");
  if (arguments[0] == "--help" || arguments[0] == "-h" || arguments[0] == "help") {
    for (const Command* command : kCommands) {
      constexpr std::string_view kHelp[] = {"--help"};
      if (arguments.size() > 1 && command->name == arguments[1]) return run_command(*command, kHelp);
    }
    write_output(overview());
    return 0;
  }
  if (arguments[0] == "--version") {
    write_output("pythia-cpu " PYTHIA_VERSION "\n");
    return 0;
  }
  std::string known;
  for (const Command* command : kCommands) {
    if (command->name == arguments[0]) return run_command(*command, arguments.subspan(1));
    known += (known.empty() ? "" : ", ") + std::string(command->name);
  }
  throw UsageError("unknown command '" + std::string(arguments[0]) + "', expected one of " + known + "; see pythia-cpu --help");
}

}  // namespace

Option model_option(std::string& path) { return file_option("--model", 'm', "the .pcpu file to use", path); }

void report_error(const std::exception& error) {
  const bool out_of_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  write_error_line("pythia-cpu: " + (out_of_memory ? "out of memory" : for_users(error.what())));
}

void take_model_argument(std::span<const std::string_view> rest, std::string& path) {
  const std::size_t found = rest.size() + !path.empty();
  if (found > 1) throw UsageError("found " + std::to_string(found) + " files, expected one");
  if (rest.empty()) return;
  if (rest[0].empty()) throw UsageError("FILE is empty, expected a file's name");
  path = rest[0];
}

}  // namespace pythia::cli

int main(int argc, char** argv) {
  using namespace pythia::cli;
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe shows as an error of write()
  const std::vector<std::string_view> arguments(argv + (argc > 0), argv + argc);
  try {
    return run(arguments);
  } catch (const ClosedPipe&) {
    return 0;
  } catch (const UsageError& error) {
    report_error(error);
    return 2;
  } catch (const std::exception& error) {
    report_error(error);
    return 1;
  }
}
