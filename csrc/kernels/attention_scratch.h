// The working set of one attention call, shared by the kernels and their caller.
#pragma once

#include <cstdint>

namespace pythia {

// Queries whose scores against one chunk of keys exist at a time; a multiple of every register tile's rows.
inline constexpr int64_t kQueryBlock = 24;

}  // namespace pythia
