#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "common/cgroup.h"
#include "common/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#else
#include <thread>
#endif

namespace pythia {
namespace {

#if defined(__linux__)
int read_int(const std::string& path, int otherwise) {
  std::ifstream file(path);
  int value = 0;
  return file >> value ? value : otherwise;
}

// Those this process may run on.
int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::pair<int, int>> cores;  // (package, core)
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    cores.emplace(read_int(topology + "physical_package_id", 0), read_int(topology + "core_id", cpu));
  }
  return static_cast<int>(cores.size());
}
#elif defined(__APPLE__)
// The fast ones, where there are two kinds: a phase waits for its slowest thread.
int physical_cores() {
  for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
    int count = 0;
    std::size_t size = sizeof count;
    if (sysctlbyname(name, &count, &size, nullptr, 0) == 0 && count > 0) return count;
  }
  return 1;
}
#else
int physical_cores() { return static_cast<int>(std::thread::hardware_concurrency()); }
#endif

}  // namespace

int available_physical_cores() {
  return std::max(1, static_cast<int>(std::min<double>(physical_cores(), std::ceil(cgroup_cpus()))));
}

}  // namespace pythia
