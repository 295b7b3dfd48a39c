// The tokenizer that a model's file carries.
#pragma once

#include <memory>

#include "format/reader.h"
#include "text/tokenizer.h"

namespace pythia::cli {

// Throws FormatError, which names the file, where the section is damaged.
std::shared_ptr<const Tokenizer> open_tokenizer(const PcpuFile& file);

}  // namespace pythia::cli
