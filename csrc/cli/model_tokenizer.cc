#include "cli/model_tokenizer.h"

#include <string>
#include <string_view>

#include "common/errors.h"

namespace pythia::cli {

std::shared_ptr<const Tokenizer> open_tokenizer(const PcpuFile& file) {
  try {
    return std::make_shared<const Tokenizer>(file.tokenizer());
  } catch (const FormatError& error) {
    constexpr std::string_view kPart = "[tokenizer] ";
    std::string what = error.what();
    if (what.starts_with(kPart)) what.erase(0, kPart.size());
    throw FormatError(file.path() + ": its tokenizer: " + what);
  }
}

}  // namespace pythia::cli
