// How much memory there is.
#pragma once

#include <cstdint>
#include <string>

namespace pythia {

// Bytes that this process can take without pushing others out: what the system calls available, or less where a control group
// allows less (common/cgroup.h). All of it if the system does not say, or the largest int64_t. `root` is where /proc and
// /sys are: "" for the system's.
int64_t available_memory_bytes(const std::string& root = {});

// Gives memory that was freed back to the system, where the C library would keep it for later.
void give_back_freed_memory() noexcept;

}  // namespace pythia
