// What this machine can do at most, measured: the scale that `pythia-cpu bench` puts the engine's speed on.
#pragma once

#include <cstdint>

#include "common/thread_pool.h"
#include "kernels/kernels.h"

namespace pythia {

// Each is the best of short trials over about half a second, on all threads of the pool at once.

// Bytes per second that `threads` read of a working set of `size_bytes` (at least 4096 a thread), each its own part over and
// over. Takes that much memory. Throws std::bad_alloc.
double measure_read_rate(const KernelTable& kernels, ThreadPool& threads, int64_t size_bytes);

// Operations per second of fp32 fused multiply-adds, two each.
double measure_fp32_rate(const KernelTable& kernels, ThreadPool& threads);

// Operations per second of int8 dots, a multiplication and an addition for each pair of int8.
double measure_int8_rate(const KernelTable& kernels, ThreadPool& threads);

}  // namespace pythia
