#include "common/cpu_placement.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace pythia {

bool CpuPlacement::is_taken(int cpu, int ranks) const noexcept {
  for (int rank = 0; rank < ranks; ++rank)
    if (cpus_[static_cast<std::size_t>(rank)].load(std::memory_order_relaxed) == 1 + cpu) return true;
  return false;
}

void CpuPlacement::settle(int rank) noexcept {
#if defined(__linux__)
  std::atomic<int>& seen = cpus_[static_cast<std::size_t>(rank)];
  const int cpu = sched_getcpu();
  if (seen.load(std::memory_order_relaxed) != 1 + cpu) seen.store(1 + cpu, std::memory_order_relaxed);
  if (cpu < 0 || !is_taken(cpu, rank)) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // 0: the calling thread
  for (int other = 0; other < CPU_SETSIZE; ++other) {
    if (!CPU_ISSET(other, &allowed) || is_taken(other, static_cast<int>(cpus_.size()))) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(other, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
    seen.store(1 + other, std::memory_order_relaxed);
    return;
  }
#else
  static_cast<void>(rank);
#endif
}

}  // namespace pythia
