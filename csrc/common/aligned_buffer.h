// Heap memory aligned for SIMD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/huge_pages.h"

namespace pythia {

enum class Pages { kAny, kHuge };

// `count` elements of a trivial type at a 64-byte boundary, not initialized; grows, never shrinks. kHuge is for a buffer that
// threads fill and read over and over, and that shall stay in a second-level cache meanwhile: the system gives small pages from
// anywhere, which may lie in the same few sets of that cache.
template <class T, Pages kPages = Pages::kAny>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t count) { reserve(count); }

  T* data() const noexcept { return data_.get(); }
  int64_t size() const noexcept { return size_; }

  // Makes room for `count` elements; contents are lost when it grows. Throws std::bad_alloc.
  void reserve(int64_t count) {
    if (count <= size_) return;
    constexpr std::size_t kUnit = kPages == Pages::kHuge ? kHugePageBytes : 64;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + kUnit - 1) / kUnit * kUnit;
    data_.reset();  // before, so that both are not there at a time
    size_ = 0;
    data_.reset(static_cast<T*>(std::aligned_alloc(kUnit, bytes)));
    if (!data_) throw std::bad_alloc();
    if constexpr (kPages == Pages::kHuge) ask_for_huge_pages(data_.get(), bytes);
    size_ = count;
  }

 private:
  struct Free {
    void operator()(T* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

}  // namespace pythia
