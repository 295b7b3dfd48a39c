#include "kernels/dispatch.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace pythia {
namespace {

struct Candidate {
  const KernelTable* table;
  bool (*supported)();  // by this CPU and the operating system (GCC's and clang's check includes XGETBV)
};

#if defined(__x86_64__)
// Not all compilers have these two by name; with AVX2 the operating system has them too.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1u) != 0;
}
bool has_avx_vnni_bit() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx_vnni() { return has_avx2() && has_avx_vnni_bit(); }
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#elif defined(__aarch64__)
bool has_dotprod() {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;  // all of this build needs it
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return false;
#endif
}
#endif
bool always() { return true; }

// Best first. docs/development.md says what a new instruction set takes.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {&kAvx512VnniKernels, has_avx512_vnni},
    {&kAvx512Kernels, has_avx512},
    {&kAvxVnniKernels, has_avx_vnni},
    {&kAvx2Kernels, has_avx2},
#elif defined(__aarch64__)
    {&kNeonDotprodKernels, has_dotprod},
    {&kNeonKernels, always},
#endif
    {&kPortableKernels, always},
};

}  // namespace

std::span<const KernelTable* const> supported_kernels() {
  // Nothing that is destroyed when the process ends: other threads may still run then.
  struct Tables {
    const KernelTable* first[std::size(kCandidates)] = {};
    std::size_t count = 0;
  };
  static const Tables tables = [] {
    Tables found;
    for (const Candidate& candidate : kCandidates)
      if (candidate.supported()) found.first[found.count++] = candidate.table;
    return found;
  }();
  return {tables.first, tables.count};
}

const KernelTable& select_kernels(std::string_view name) {
  const auto tables = supported_kernels();
  const bool from_environment = name.empty();
  if (from_environment) {
    const char* forced = std::getenv(kIsaVariable);
    if (forced == nullptr || *forced == '\0') return *tables.front();
    name = forced;
  }
  for (const KernelTable* table : tables)
    if (name == table->isa) return *table;

  const char* problem = "unknown";
  for (const Candidate& candidate : kCandidates)
    if (name == candidate.table->isa) problem = "not supported by this CPU";
  std::string message = std::string("[isa] \"") + std::string(name) + "\"" +
                        (from_environment ? std::string(" (from ") + kIsaVariable + ")" : "") + " is " + problem +
                        "; this machine runs: ";
  for (const KernelTable* table : tables) message += std::string(table == tables.front() ? "" : ", ") + table->isa;
  throw std::invalid_argument(message);
}

}  // namespace pythia
