// Which kernel tables this build has, which this CPU can run, and which one is in use.
#pragma once

#include <span>
#include <string_view>

#include "kernels/kernels.h"

namespace pythia {

// The environment variable that forces a table by name.
inline constexpr const char* kIsaVariable = "PYTHIA_CPU_ISA";

// All tables of this build that this CPU and operating system can run, best first; "portable" is always the last.
std::span<const KernelTable* const> supported_kernels();

// The table called `name`; empty: the one PYTHIA_CPU_ISA names, or the best. Throws std::invalid_argument for a name that is
// unknown or that this CPU cannot run, listing those it can.
const KernelTable& select_kernels(std::string_view name = {});

}  // namespace pythia
