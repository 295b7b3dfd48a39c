// How a matmul's outputs are cut into tasks for threads. Tasks differ in speed only: they split outputs, never a sum.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quant/weight_format.h"

namespace pythia {

// Panels [panel_begin, panel_end) of the weights by rows [row_begin, row_end) of the activations.
struct Tile {
  int64_t panel_begin, panel_end;
  int64_t row_begin, row_end;

  int64_t num_rows() const { return row_end - row_begin; }
};

// Rows of one task. A multiple of every kernel's register tile, and few enough that a block of their inputs stays in cache.
inline constexpr int64_t kRowsPerTile = 264;

class Tiling {
 public:
  Tiling(int64_t outputs, int64_t rows, int threads)
      : panels_(num_panels(outputs)), rows_(rows), row_blocks_(ceil_div(rows, kRowsPerTile)) {
    // Several tasks a thread, so that one that is held up does not hold up all. Multiples of the register tiles' panels, and
    // always even: two panels of outputs are a quantization group of the next matmul's inputs.
    static_assert(2 * kPanelWidth == kQuantGroup);
    const bool one_tile_high = rows <= kFewTileRows;
    const int64_t share = ceil_div(panels_ * row_blocks_, kTasksPerThread * threads);
    const int64_t unit = !one_tile_high ? 12 : share > 6 ? 6 : 2;
    panels_per_tile_ = std::clamp<int64_t>(round_up(share, unit), unit, one_tile_high ? 60 : 48);
  }

  int64_t size() const { return ceil_div(panels_, panels_per_tile_) * row_blocks_; }

  // Row blocks of the same panels follow each other, so that the weights are read from memory once.
  Tile operator[](int64_t i) const {
    const int64_t panel = i / row_blocks_ * panels_per_tile_, row = i % row_blocks_ * kRowsPerTile;
    return {panel, std::min(panels_, panel + panels_per_tile_), row, std::min(rows_, row + kRowsPerTile)};
  }

 private:
  static constexpr int64_t kTasksPerThread = 4;
  static constexpr int64_t kFewTileRows = 4;

  int64_t panels_, rows_, row_blocks_;
  int64_t panels_per_tile_ = 0;
};

}  // namespace pythia
