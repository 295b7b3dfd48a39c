// Memory for the caches of sequences that run together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace pythia {

// Zeros of their own, taken from the system as they are written. Throws std::bad_alloc.
std::shared_ptr<std::byte> map_zeros(int64_t size_bytes);

// Lays small pieces side by side in slabs, for which it asks for huge pages: a step over many sequences touches all their
// caches, and would spend much of its time on looking up small pages. A slab whose pieces have all been given back serves
// again: the system would clear its pages anew. Not thread-safe.
class KvMemory {
 public:
  // Memory at a 64-byte boundary, with anything in it. Throws std::bad_alloc.
  std::shared_ptr<std::byte> take(int64_t size_bytes);

 private:
  void next_slab();

  std::vector<std::shared_ptr<std::byte>> slabs_;  // the last is the one that pieces are taken from
  int64_t used_bytes_ = 0;                         // of that one
};

}  // namespace pythia
