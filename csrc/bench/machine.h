// Which machine and when: what a recorded figure must carry.
#pragma once

#include <string>

namespace pythia {

// The processor's name as the system gives it (Linux: /proc/cpuinfo "model name"), "unknown" if it gives none.
std::string machine_name();

// Now, in UTC: "2026-05-31T12:00:00Z".
std::string utc_timestamp();

}  // namespace pythia
