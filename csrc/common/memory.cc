#include "common/memory.h"

#include <unistd.h>

#include <cstdlib>  // defines __GLIBC__, where it is
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "common/cgroup.h"

namespace pythia {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

int64_t system_available_bytes(const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  for (std::string name, unit; file >> name;) {
    int64_t kib = 0;
    if (!(file >> kib)) break;
    if (name == "MemAvailable:") return kib * 1024;
    std::getline(file, unit);
  }
#if defined(_SC_PHYS_PAGES)
  const auto pages = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)), page_bytes = static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  if (pages > 0 && page_bytes > 0) return pages * page_bytes;  // all there is, where the system does not say what is free
#endif
  return kUnknown;
}

}  // namespace

int64_t available_memory_bytes(const std::string& root) {
  return std::min(system_available_bytes(root), cgroup_available_bytes(root));
}

void give_back_freed_memory() noexcept {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace pythia
