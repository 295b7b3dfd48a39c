#include "model/kv_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <utility>

#include "common/huge_pages.h"
#include "quant/weight_format.h"

namespace pythia {
namespace {

constexpr int64_t kSlabBytes = 2 * kHugePageBytes;
// Larger pieces have pages of their own, which are taken as they are written: to clear huge ones would take long.
constexpr int64_t kMaxPieceBytes = kSlabBytes / 4, kPieceAlignment = 4096;

std::shared_ptr<std::byte> map(int64_t size) {
  const auto size_bytes = static_cast<std::size_t>(size);
  void* mapped = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(mapped), [size_bytes](std::byte* p) { munmap(p, size_bytes); }};
}

std::shared_ptr<std::byte> map_slab() {
  const std::shared_ptr<std::byte> mapping = map(kSlabBytes + kHugePageBytes);
  const auto offset = -reinterpret_cast<std::uintptr_t>(mapping.get()) % kHugePageBytes;
  std::byte* begin = mapping.get() + offset;
  ask_for_huge_pages(begin, kSlabBytes);
  return {mapping, begin};
}

}  // namespace

std::shared_ptr<std::byte> map_zeros(int64_t size_bytes) { return map(size_bytes); }

std::shared_ptr<std::byte> KvMemory::take(int64_t size_bytes) {
  const int64_t piece_bytes = round_up(size_bytes, kPieceAlignment);
  if (piece_bytes > kMaxPieceBytes) return map_zeros(piece_bytes);
  if (slabs_.empty() || used_bytes_ + piece_bytes > kSlabBytes) next_slab();
  std::byte* piece = slabs_.back().get() + used_bytes_;
  used_bytes_ += piece_bytes;
  return {slabs_.back(), piece};
}

void KvMemory::next_slab() {
  const auto unused = std::ranges::find_if(slabs_, [](const auto& slab) { return slab.use_count() == 1; });
  unused == slabs_.end() ? slabs_.push_back(map_slab()) : std::swap(*unused, slabs_.back());
  used_bytes_ = 0;
}

}  // namespace pythia
