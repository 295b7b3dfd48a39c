// How a matmul's outputs are cut into tasks for threads. Tasks differ in speed only: they split outputs, never a sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "quant/weight_format.h"

namespace pythia {

// Outputs [begin, end), `begin` being a panel's first, by rows [row_begin, row_end) of the activations.
struct Tile {
  int64_t begin, end;
  int64_t row_begin, row_end;

  int64_t num_rows() const { return row_end - row_begin; }
};

// Rows in blocks of equal height, few enough that a block of their inputs stays in cache, and as many blocks for each thread.
class RowBlocks {
 public:
  RowBlocks(int64_t rows, int threads) : rows_(rows), size_(ceil_div(rows, kMostRows)) {
    if (rows >= kLeastRows * threads) size_ = round_up(size_, threads);
    height_ = round_up(ceil_div(rows, size_), kRowUnit);
    size_ = ceil_div(rows, height_);
  }

  int64_t size() const { return size_; }
  int64_t height() const { return height_; }
  int64_t begin(int64_t block) const { return block * height_; }
  int64_t end(int64_t block) const { return std::min(rows_, (block + 1) * height_); }

  static constexpr int64_t kMostRows = 264;

 private:
  static constexpr int64_t kLeastRows = 16;  // fewer, and reading the weights again costs more than unequal shares
  static constexpr int64_t kRowUnit = 4;     // register tiles of most kernels; others end in a smaller one

  int64_t rows_, size_, height_ = 0;
};

class Tiling {
 public:
  Tiling(int64_t outputs, int64_t rows, int threads) : outputs_(outputs), panels_(num_panels(outputs)), blocks_(rows, threads) {
    // Whole register tiles where there is enough for all threads; but few rows take what is left over with smaller tiles, which
    // costs less than unequal shares. Always even: two panels of outputs are a quantization group of the next matmul's inputs.
    static_assert(2 * kPanelWidth == kQuantGroup);
    const bool few_rows = rows <= kFewTileRows;
    const auto enough = [&](int64_t unit) { return ceil_div(panels_, unit) * blocks_.size() >= 2 * threads; };
    panels_per_unit_ = few_rows ? 2 : enough(12) ? 12 : enough(6) ? 6 : 2;
    units_ = ceil_div(panels_, panels_per_unit_);
    // Several tasks a thread, so that one that is held up does not hold up all, and as many for each.
    const int64_t most_units = (few_rows ? 60 : 48) / panels_per_unit_;
    const int64_t wanted = std::max(ceil_div(kTasksPerThread * threads, blocks_.size()), ceil_div(units_, most_units));
    tiles_ = std::min(units_, round_up(wanted, threads / std::gcd<int64_t>(threads, blocks_.size())));
  }

  int64_t size() const { return tiles_ * blocks_.size(); }

  // Row blocks of the same panels follow each other, so that the weights are read from memory once.
  Tile operator[](int64_t i) const {
    const int64_t tile = i / blocks_.size(), block = i % blocks_.size();
    return {panel(tile) * kPanelWidth, std::min(outputs_, panel(tile + 1) * kPanelWidth), blocks_.begin(block),
            blocks_.end(block)};
  }

 private:
  static constexpr int64_t kTasksPerThread = 4;
  static constexpr int64_t kFewTileRows = 4;

  // The first panel of a tile; tiles differ by one unit at most.
  int64_t panel(int64_t tile) const { return tile * units_ / tiles_ * panels_per_unit_; }

  int64_t outputs_, panels_;
  RowBlocks blocks_;
  int64_t panels_per_unit_ = 0, units_ = 0, tiles_ = 0;
};

}  // namespace pythia
