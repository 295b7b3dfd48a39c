// Where the maxima of rows of scores lie, between the one who makes the scores and the one who searches them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernels.h"

namespace pythia {

// What KernelTable::block_maxima makes of each row; nothing where of_blocks is null.
struct ScoreMaxima {
  float* of_blocks = nullptr;  // [rows, blocks]
  float* of_groups = nullptr;  // [rows, blocks, kScoreGroups]; null where nobody asks for them

  static constexpr int64_t num_blocks(int64_t num_scores) { return ceil_div(num_scores, kScoreBlock); }

  // Those of rows of num_scores from `row` on.
  ScoreMaxima from_row(int64_t row, int64_t num_scores) const {
    const int64_t blocks = row * num_blocks(num_scores);
    return {of_blocks ? of_blocks + blocks : nullptr, of_groups ? of_groups + blocks * kScoreGroups : nullptr};
  }

  // The first row's maxima of blocks; empty where nothing is.
  std::span<const float> blocks(int64_t num_scores) const {
    return {of_blocks, of_blocks ? static_cast<std::size_t>(num_blocks(num_scores)) : 0};
  }

  // Makes the maxima of n scores, which are the first row's from `first` on; first is a multiple of kScoreBlock, n too or the
  // rest.
  void update(const KernelTable& kernels, const float* scores, int64_t first, int64_t n) const {
    const int64_t block = first / kScoreBlock;
    kernels.block_maxima(scores, n, of_blocks + block, of_groups ? of_groups + block * kScoreGroups : nullptr);
  }
};

}  // namespace pythia
