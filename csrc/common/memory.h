// How much memory there is.
#pragma once

#include <cstdint>

namespace pythia {

// Bytes that this process can take without pushing others out: what the system calls available, or less where a control group
// allows less (common/cgroup.h). All of it if the system does not say, or the largest int64_t.
int64_t available_memory_bytes();

}  // namespace pythia
