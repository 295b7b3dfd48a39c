#include "common/huge_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <string>

#include "common/memory.h"

namespace pythia {
namespace {

constexpr int64_t kLeastBytes = int64_t{16} << 20;  // processors remember the places of about as many small pages

bool system_has_huge_pages() {
#if defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
  const std::string folder = "/sys/kernel/mm/transparent_hugepage/";
  std::ifstream enabled(folder + "enabled"), size(folder + "hpage_pmd_size");
  std::string choices;
  std::size_t size_bytes = 0;  // more where small pages have 16 or 64 KB
  // Where no memory is promised that is not there, a move may fail after its target is gone.
  std::ifstream overcommit("/proc/sys/vm/overcommit_memory");
  if (int mode = 0; overcommit >> mode && mode == 2) return false;
  return std::getline(enabled, choices) && choices.find("[never]") == std::string::npos && size >> size_bytes &&
         size_bytes == kHugePageBytes;
#else
  return false;
#endif
}

std::atomic<int64_t> pieces_of_process = 0;

// As many of `wanted` as keep those of the process within `most`.
int64_t take_pieces(int64_t wanted, int64_t most) {
  int64_t before = pieces_of_process, taken = 0;
  do taken = std::clamp<int64_t>(most - before, 0, wanted);
  while (!pieces_of_process.compare_exchange_weak(before, before + taken));
  return taken;
}

}  // namespace

void ask_for_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t size_bytes) noexcept {
#if defined(MADV_HUGEPAGE)
  madvise(begin, size_bytes, MADV_HUGEPAGE);
#endif
}

HugePageMover::HugePageMover(std::span<const std::byte> bytes, int64_t max_pieces) {
  const auto size = static_cast<int64_t>(bytes.size());
  if (size < kLeastBytes || !system_has_huge_pages() || available_memory_bytes() - size < size / 2) return;
  const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
  const auto to_boundary = static_cast<int64_t>(-address % static_cast<std::uintptr_t>(kPieceBytes));
  begin_ = const_cast<std::byte*>(bytes.data()) + to_boundary;
  num_pieces_ = take_pieces((size - to_boundary) / kPieceBytes, max_pieces);
}

HugePageMover::~HugePageMover() { pieces_of_process -= num_pieces_; }

void HugePageMover::move([[maybe_unused]] int64_t piece) const noexcept {
#if defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
  constexpr auto kBytes = static_cast<std::size_t>(kPieceBytes);
  std::byte* const target = begin_ + piece * kPieceBytes;
  void* const mapped = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return;
  auto* const first = static_cast<std::byte*>(mapped);
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(first) % kBytes, after = kBytes - before;
  std::byte* const copy = first + before;
  bool moved = madvise(copy, kBytes, MADV_HUGEPAGE) == 0;
  if (moved) {
    std::memcpy(copy, target, kBytes);
    moved = mprotect(copy, kBytes, PROT_READ) == 0 &&
            mremap(copy, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) != MAP_FAILED;
  }
  if (!moved) munmap(copy, kBytes);
  if (before > 0) munmap(first, before);
  if (after > 0) munmap(copy + kBytes, after);
#endif
}

}  // namespace pythia
