// What the control groups of this process allow it.
#pragma once

#include <cstdint>
#include <string>

namespace pythia {

// Both look at the process's own group and all groups above it, of version 2 and 1 (Linux's admin-guide/cgroup-v2.rst and
// cgroup-v1/), and take the least. A container sees its own group as the topmost one; a job of Slurm or systemd does not.
// `root` is where /proc and /sys are: "" for the system's.

// Bytes up to the limits of memory, with what is taken already except file pages that the system would drop first. The largest
// int64_t without a limit.
int64_t cgroup_available_bytes(const std::string& root = {});

// CPUs' worth of time; infinity without a limit.
double cgroup_cpus(const std::string& root = {});

}  // namespace pythia
