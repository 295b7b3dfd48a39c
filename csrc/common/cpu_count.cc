#include "common/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/cgroup.h"

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

// The processors that this process may run on. The system refuses a set that is too small for all it has.
std::vector<int> allowed_cpus() {
  for (int most = CPU_SETSIZE; most <= 64 * CPU_SETSIZE; most *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> allowed(CPU_ALLOC(most), [](cpu_set_t* set) { CPU_FREE(set); });
    const std::size_t size_bytes = CPU_ALLOC_SIZE(most);
    if (!allowed || sched_getaffinity(0, size_bytes, allowed.get()) != 0) continue;
    std::vector<int> cpus;
    for (int cpu = 0; cpu < most; ++cpu)
      if (CPU_ISSET_S(cpu, size_bytes, allowed.get())) cpus.push_back(cpu);
    return cpus;
  }
  return {};
}

int physical_cores() {
  std::set<std::pair<int, int>> cores;  // (package, core)
  for (const int cpu : allowed_cpus()) {
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
