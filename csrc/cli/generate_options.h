// What `pythia-cpu generate` is told on its command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/args.h"
#include "generate/sampling_options.h"

namespace pythia::cli {

struct GenerateOptions {
  std::string model_path;   // empty: the shipped model
  std::string prompt_path;  // --prompt-file
  int64_t threads = 0;      // 0: all physical cores
  int64_t max_new_tokens = 64;
  SamplingOptions sampling;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  int64_t num_logprobs = -1;
  bool ignore_eos = false;
  bool echo = false;
  bool json = false;
  bool batch = false;
};

// The table of options, whose setters write to `options`. An option that only sampling uses turns sampling on.
std::vector<Option> generate_option_table(GenerateOptions& options);

}  // namespace pythia::cli
