// The commands of pythia-cpu, one file each.
#pragma once

#include <exception>

#include "cli/args.h"

namespace pythia::cli {

extern const Command kGenerateCommand;
extern const Command kScoreCommand;
extern const Command kTokenizeCommand;
extern const Command kInfoCommand;
extern const Command kVerifyCommand;
extern const Command kBenchCommand;

// The option every command has.
Option model_option(std::string& path);

// Writes "pythia-cpu: " and the error's text, in the words of a user of the binary, to standard error.
void report_error(const std::exception& error);

// Takes the model's file from the arguments that are no options, for commands where -m need not be written. Throws UsageError.
void take_model_argument(std::span<const std::string_view> rest, std::string& path);

}  // namespace pythia::cli
