// The commands of pythia-cpu, one file each.
#pragma once

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

}  // namespace pythia::cli
