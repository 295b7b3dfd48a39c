#include "common/cgroup.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <vector>

namespace pythia {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

struct Group {
  std::string folder;  // with a slash at its end
  bool is_v2;
};

// The groups that may limit what `controller` controls. Those that the process cannot see have no files.
std::vector<Group> groups_of(const std::string& root, const std::string& controller) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::vector<Group> groups;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // hierarchy:controllers:path
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_v2 = controllers.empty();
    if (!is_v2 && ("," + controllers + ",").find("," + controller + ",") == std::string::npos) continue;
    const std::string top = is_v2 ? mount : mount + "/" + controller;
    for (std::string path = line.substr(second + 1); path.size() > 1 && path[0] == '/'; path.resize(path.rfind('/')))
      groups.push_back({top + path + "/", is_v2});
    groups.push_back({top + "/", is_v2});
  }
  return groups;
}

// The first number of a file; "max" is none.
int64_t read_number(const std::string& path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;
}

// A line of memory.stat, or 0.
int64_t read_statistic(const std::string& path, const std::string& wanted) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string name; file >> name >> value;)
    if (name == wanted) return value;
  return 0;
}

int64_t available_bytes(const Group& group) {
  const std::string file = group.folder + "memory.";
  const int64_t limit = group.is_v2 ? std::min(read_number(file + "max", kUnlimited), read_number(file + "high", kUnlimited))
                                    : read_number(file + "limit_in_bytes", kUnlimited);
  if (limit == kUnlimited) return kUnlimited;
  // The working set, as Kubernetes has it: among the file pages may be those of the model.
  const int64_t used = read_number(file + (group.is_v2 ? "current" : "usage_in_bytes"), 0);
  const int64_t inactive = read_statistic(file + "stat", group.is_v2 ? "inactive_file" : "total_inactive_file");
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - inactive));
}

double cpus(const Group& group) {
  double quota_us = 0, period_us = 0;
  if (group.is_v2) {
    std::ifstream file(group.folder + "cpu.max");
    file >> quota_us >> period_us;
  } else {
    quota_us = static_cast<double>(read_number(group.folder + "cpu.cfs_quota_us", 0));  // -1: no limit
    period_us = static_cast<double>(read_number(group.folder + "cpu.cfs_period_us", 0));
  }
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : std::numeric_limits<double>::infinity();
}

}  // namespace

int64_t cgroup_available_bytes(const std::string& root) {
  int64_t least = kUnlimited;
  for (const Group& group : groups_of(root, "memory")) least = std::min(least, available_bytes(group));
  return least;
}

double cgroup_cpus(const std::string& root) {
  double least = std::numeric_limits<double>::infinity();
  for (const Group& group : groups_of(root, "cpu")) least = std::min(least, cpus(group));
  return least;
}

}  // namespace pythia
