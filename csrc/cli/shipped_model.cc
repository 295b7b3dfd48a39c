#include "cli/shipped_model.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <system_error>
#include <vector>

#if defined(__APPLE__)
#include <mach-o/dyld.h>
#endif

namespace pythia::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModelName = "mini-pythia.pcpu";

// lib/python3.12/site-packages, lib/python3.11/site-packages, ... under `prefix`.
std::vector<fs::path> python_package_folders(const fs::path& prefix) {
  std::vector<fs::path> folders;
  for (const char* lib : {"lib", "lib64"}) {
    std::error_code error;  // a folder that is missing or closed to us holds no model
    for (fs::directory_iterator it(prefix / lib, error), end; !error && it != end; it.increment(error)) {
      if (!it->path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) folders.push_back(it->path() / packages);
    }
  }
  std::sort(folders.begin(), folders.end(), std::greater<>());
  return folders;
}

// This program's file; empty if the system does not say.
fs::path program_path() {
  std::error_code error;
#if defined(__APPLE__)
  uint32_t size = 0;
  _NSGetExecutablePath(nullptr, &size);
  std::string path(size, '\0');
  if (_NSGetExecutablePath(path.data(), &size) != 0) return {};
  return fs::canonical(path.c_str(), error);
#else
  return fs::read_symlink("/proc/self/exe", error);
#endif
}

}  // namespace

std::string shipped_model_path() {
  std::error_code error;
  if (const char* named = std::getenv(kModelVariable); named != nullptr && *named != '\0') {
    if (fs::exists(named, error)) return named;
    throw std::invalid_argument(std::string(named) + ": No such file, expected the .pcpu file that " + kModelVariable +
                                " names");
  }

  const fs::path prefix = program_path().parent_path().parent_path();
  std::vector<fs::path> candidates = {prefix / "share" / "pythia-cpu" / kModelName,
                                      prefix / "pythia_cpu" / "data" / kModelName};  // pip install --target
  for (const fs::path& folder : python_package_folders(prefix))
    candidates.push_back(folder / "pythia_cpu" / "data" / kModelName);
  for (const fs::path& candidate : candidates)
    if (fs::exists(candidate, error)) return candidate.string();
  throw std::invalid_argument("no model: " + std::string(kModelName) + " is not in " +
                              candidates.front().parent_path().string() +
                              " nor in a Python package beside it; name one with -m or " + kModelVariable);
}

std::string chosen_model_path(const std::string& named) {
  if (named.empty()) return shipped_model_path();
  std::error_code error;
  const bool folder = fs::is_directory(named, error);
  if (folder || (!fs::exists(named, error) && !named.ends_with(".pcpu")))
    throw std::invalid_argument(
        named + (folder ? ": is a folder" : ": No such file") +
        ", expected a .pcpu file; pythia-convert makes one of a checkpoint's folder or its name on the hub");
  return named;
}

}  // namespace pythia::cli
