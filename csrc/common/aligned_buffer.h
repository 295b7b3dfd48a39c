// Heap memory aligned for SIMD.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pythia {

// `count` elements of a trivial type at a 64-byte boundary, not initialized; grows, never shrinks.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(int64_t count) { reserve(count); }

  T* data() const noexcept { return data_.get(); }
  int64_t size() const noexcept { return size_; }

  // Makes room for `count` elements; contents are lost when it grows. Throws std::bad_alloc.
  void reserve(int64_t count) {
    if (count <= size_) return;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) {
      size_ = 0;
      throw std::bad_alloc();
    }
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
