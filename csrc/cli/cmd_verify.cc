// pythia-cpu verify: does this machine compute the bits that the converter did?
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/hexadecimal.h"
#include "cli/io.h"
#include "cli/model_tokenizer.h"
#include "cli/shipped_model.h"
#include "model/fingerprint.h"
#include "model/model.h"

namespace pythia::cli {
namespace {

constexpr std::string_view kDescription =
    "Checks each .pcpu file, all of it, then runs its model on a fixed prompt of 32 tokens and compares the\n"
    "hash of the logits with the one that was stored when the file was made. Exit status 0: the same\n"
    "bits of all; 1: not. Without FILE: the model that is used when none is named.\n\n"
    "  pythia-cpu verify pythia-70m.pcpu\n"
    "  pythia-cpu verify checkpoints/*.pcpu\n";

// Throws what is wrong with a file.
std::string verify(const std::string& path, int threads) {
  const auto model = Model::open(path, threads);
  open_tokenizer(model->file());
  const uint64_t stored = model->file().header().fingerprint;
  if (stored == 0) throw std::runtime_error(path + ": no fingerprint is stored; convert the checkpoint again");
  const uint64_t computed = logits_fingerprint(*model);
  if (computed != stored)
    throw std::runtime_error(path + ": the logits' fingerprint is " + hexadecimal(computed) + " on this machine (" +
                             model->isa() + "), expected " + hexadecimal(stored) +
                             "; the file was made by another version, or one of the two machines computes wrongly");
  return path + ": same bits, fingerprint " + hexadecimal(stored) + " (" + model->isa() + ")\n";
}

int run_verify(const Command& command, std::span<const std::string_view> arguments) {
  std::string model_path;
  int64_t threads = 0;
  const std::vector<Option> table = {
      model_option(model_path),
      integer_option("--threads", 't', "N", "use N threads (default: all physical cores); the bits are the same", 1,
                     kMaxThreads, threads),
  };
  if (wants_help(arguments, table)) {
    write_output(help_text(command, table));
    return 0;
  }
  std::vector<std::string> paths;
  for (const std::string_view path : parse(arguments, table)) {
    if (path.empty()) throw UsageError("FILE is empty, expected a file's name");
    paths.emplace_back(path);
  }
  if (paths.empty() || !model_path.empty()) paths.insert(paths.begin(), chosen_model_path(model_path));

  bool all_same = true;
  for (const std::string& path : paths) {
    try {
      write_output(verify(path, static_cast<int>(threads)));
    } catch (const ClosedPipe&) {
      throw;
    } catch (const std::exception& error) {  // the other files are looked at all the same
      all_same = false;
      report_error(error);
    }
  }
  return all_same ? 0 : 1;
}

}  // namespace

const Command kVerifyCommand = {"verify", "[OPTION]... [FILE]...", "check that this machine computes the same bits",
                                kDescription, &run_verify};

}  // namespace pythia::cli
