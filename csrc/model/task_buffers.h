// A thread's own memory for what a task makes and uses up.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "common/aligned_buffer.h"
#include "format/config.h"
#include "kernels/kernels.h"
#include "model/scoring.h"
#include "model/tiling.h"

namespace pythia {

// The smallest odd number of cache lines for a row: so that a column of many rows spreads over all sets of a cache.
inline constexpr int64_t odd_lines(int64_t size_bytes) { return (ceil_div(size_bytes, kAlignment) | 1) * kAlignment; }

// From one row of floats to the next.
inline constexpr int64_t row_stride_floats(int64_t columns) { return odd_lines(4 * columns) / 4; }

// Rows of floats somewhere.
struct FloatRows {
  float* first;
  int64_t stride;

  float* row(int64_t r) const { return first + r * stride; }
  FloatRows from(int64_t row, int64_t column) const { return {first + row * stride + column, stride}; }
};

// How many heads one task takes: their query_key_value outputs fill whole panels, and their attention fills whole quantization
// groups, or they are all.
inline int64_t heads_per_task(const Config& config) {
  const auto pieces_to_fill = [](int64_t unit, int64_t whole) { return whole / std::gcd(unit, whole); };
  return std::min<int64_t>(config.num_attention_heads, std::lcm(pieces_to_fill(3 * config.head_dim(), kPanelWidth),
                                                                pieces_to_fill(config.head_dim(), kQuantGroup)));
}

// Two matrices of floats for each thread, which stay in its second-level cache: floats of all rows of a pass would leave it and
// come back, and a store to one would wait for its line.
class TaskBuffers {
 public:
  // For passes of `rows` rows. Grows, never shrinks. Throws std::bad_alloc.
  void reserve(const Config& config, int64_t rows, int threads) {
    const int64_t heads_columns = heads_per_task(config) * config.head_dim(), most = std::min(rows, RowBlocks::kMostRows);
    const int64_t second = std::max(kFloats, most * row_stride_floats(heads_columns));
    const int64_t first =
        std::max({kFloats, most * row_stride_floats(3 * heads_columns), round_up(config.hidden_size, kPanelWidth)});
    // Nothing is written if there is room, so that other threads' caches keep what they know of it.
    if (first > first_) first_ = first;
    if (second > second_) second_ = second;
    floats_.reserve((first_ + second_) * threads);
  }

  // Rows [columns], of which there are at most those of a task: a row of LayerNorm, a block of heads, or part_panels().
  FloatRows first(int rank, int64_t columns) const { return {both(rank), row_stride_floats(columns)}; }
  FloatRows second(int rank, int64_t columns) const { return {both(rank) + first_, row_stride_floats(columns)}; }

  // [kScoreRows, kLogitChunk] logits, in the place of both.
  float* logits(int rank) const { return both(rank); }

  // How many panels of outputs each has room for, at least 12: whole register tiles and whole quantization groups.
  static int64_t part_panels(int64_t rows) {
    const int64_t most = (kFloats / kPanelWidth / rows - 1) | 1;  // in odd lines
    return most / 6 * 6;
  }

 private:
  static constexpr int64_t kFloats = RowBlocks::kMostRows * 13 * kPanelWidth;
  static_assert(2 * kFloats >= kScoreRows * kLogitChunk);

  float* both(int rank) const { return floats_.data() + rank * (first_ + second_); }

  int64_t first_ = 0, second_ = 0;
  AlignedBuffer<float, Pages::kHuge> floats_;
};

}  // namespace pythia
