// Memory for the caches of sequences that run together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace pythia {

// Zeros of their own, taken from the system as they are written. Throws std::bad_alloc.
std::shared_ptr<std::byte> map_zeros(int64_t size_bytes);

// Lays small pieces side by side in slabs, for which it asks for huge pages: a step over many sequences touches all their
// caches, and would spend much of its time on looking up small pages. A slab is given back with the last of its pieces. Not
// thread-safe.
class KvMemory {
 public:
  // Zeros at a 64-byte boundary. Throws std::bad_alloc.
  std::shared_ptr<std::byte> take(int64_t size_bytes);

 private:
  std::shared_ptr<std::byte> slab_;
  int64_t used_bytes_ = 0;
};

}  // namespace pythia
