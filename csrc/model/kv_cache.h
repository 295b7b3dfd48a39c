// The keys and values of one sequence.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "format/config.h"
#include "kernels/kv_head.h"
#include "model/kv_memory.h"

namespace pythia {

// Positions of a block, as it can be copied out of a cache and into another: those that lie together in memory.
inline constexpr int64_t kKvBlock = 16;

// What a model's caches hold: its heads, and the format of their keys and values.
class KvLayout {
 public:
  KvLayout(const Config& config, KvFormat format);

  KvFormat format() const { return format_; }
  int64_t num_heads() const { return num_heads_; }  // of one layer
  int64_t num_layer_heads() const { return num_layers_ * num_heads_; }
  int64_t max_positions() const { return max_positions_; }

  // Bytes of kKvBlock positions of one head's keys, values, key scales and value scales (KvHead).
  static constexpr std::size_t kParts = 4;
  const std::array<int64_t, kParts>& part_bytes() const { return part_bytes_; }

  // Bytes over all layers and heads, of kKvBlock positions and of one.
  int64_t block_bytes() const;
  int64_t bytes_per_position() const { return block_bytes() / kKvBlock; }

  bool operator==(const KvLayout&) const = default;

 private:
  KvFormat format_;
  int64_t num_layers_, num_heads_, head_dim_, max_positions_;
  std::array<int64_t, kParts> part_bytes_;
};

// Reserves address space for `capacity` positions; memory is taken as positions are written (a session's resident memory
// follows its length). Not thread-safe: one user at a time.
class KvCache {
 public:
  // capacity in positions, 1..layout.max_positions(). Throws std::invalid_argument, std::bad_alloc.
  KvCache(const KvLayout& layout, int64_t capacity);

  // As above, with memory from there, for a cache that will be filled.
  KvCache(const KvLayout& layout, int64_t capacity, KvMemory& memory);

  const KvLayout& layout() const { return layout_; }
  int64_t length() const { return length_; }  // positions that hold keys and values
  int64_t capacity() const { return capacity_; }

  // Forgets all positions from `length` on. Throws std::invalid_argument if length > length().
  void truncate(int64_t length);

  // Copies positions [0, length) of `other` (same layout, length <= other.length() and capacity()) in place of this one's, of
  // which the first num_equal, at most length and length(), are the same already.
  void copy_prefix(const KvCache& other, int64_t length, int64_t num_equal = 0);

  // Copies positions [begin, begin + kKvBlock), a multiple of kKvBlock and below length(), to data [layout().block_bytes()], or
  // takes such data as the next positions, where length() is a multiple of kKvBlock and there is room. The cache's user checks
  // that.
  void copy_block(int64_t begin, std::byte* data) const;
  void append_block(const std::byte* data);

  // Asks the processor for the first `positions` positions of a head, which are to be read soon, if it has not many: those of a
  // long sequence are a stream that it asks for by itself.
  void prefetch(int64_t layer, int64_t head, int64_t positions) const noexcept;

  KvHead head(int64_t layer, int64_t head) const {
    const int64_t index = layer * layout_.num_heads() + head;
    return {layout_.format(), part(index, 0), part(index, 1), reinterpret_cast<float*>(part(index, 2)),
            reinterpret_cast<float*>(part(index, 3))};
  }

 private:
  friend class Model;
  int64_t lay_out(int64_t capacity);  // sets the sizes; returns the bytes of all
  std::byte* part(int64_t head_index, std::size_t part) const { return data_ + head_index * head_bytes_ + part_begin_[part]; }

  KvLayout layout_;
  int64_t capacity_ = 0, length_ = 0;
  int64_t head_bytes_ = 0;
  std::array<int64_t, KvLayout::kParts> part_begin_{};
  std::shared_ptr<std::byte> memory_;
  std::byte* data_ = nullptr;
};

}  // namespace pythia
