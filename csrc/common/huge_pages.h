// Huge pages, where the system has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pythia {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// For memory that begins and ends at multiples of kHugePageBytes and has not been written. Nothing happens if the system
// refuses.
void ask_for_huge_pages(void* begin, std::size_t size_bytes) noexcept;

// Moves mapped bytes that are only read into huge pages, in place: addresses and contents stay the same, and other threads may
// read them meanwhile. A processor looks up each page that it reads from, and with a file's small pages that takes up to a
// fifth of the time that reading takes. To move a byte costs about as much as to read it five times.
class HugePageMover {
 public:
  static constexpr int64_t kPieceBytes = kHugePageBytes;

  // A moved piece is a mapping of its own (it does not merge with its neighbours), and a process may have 65,530 of them
  // (vm.max_map_count) before all its mmap calls fail. Half of them hold 64 GiB.
  static constexpr int64_t kMaxPieces = 32768;

  // For bytes of a private mapping, which stays mapped as long as the mover is there. It has no pieces where they would gain
  // nothing (a few megabytes) or the system has no huge pages or too little memory: the moved bytes no longer are the file's,
  // which the system could take back. All movers of the process together have at most `max_pieces`.
  explicit HugePageMover(std::span<const std::byte> bytes, int64_t max_pieces = kMaxPieces);
  ~HugePageMover();
  HugePageMover(const HugePageMover&) = delete;
  HugePageMover& operator=(const HugePageMover&) = delete;

  int64_t num_pieces() const { return num_pieces_; }

  // Moves a piece, once. Nothing happens if the system refuses. Several threads may move different pieces.
  void move(int64_t piece) const noexcept;

 private:
  std::byte* begin_ = nullptr;
  int64_t num_pieces_ = 0;
};

}  // namespace pythia
