// Matmul of float rows by f32, f16 or bf16 panels. Each output is one lane that adds over the inner dimension in sequence, so
// tiles, blocks and vector widths do not show in the bits. The same tile computes attention's scores and weighted values.
// Included through bodies.inl.
#pragma once

#include <type_traits>

#include "kernels/kernels.h"

namespace pythia {
namespace {

// Where a tile's weights lie: element (k, panel p, lane) at data + p * panel_stride + k * step + lane, in elements of
// `Element`.
struct F32Weights {
  const float* data;
  int64_t panel_stride, step;
  Vec at(int64_t k, int p) const { return load(data + p * panel_stride + k * step); }
  F32Weights panels_from(int64_t p) const { return {data + p * panel_stride, panel_stride, step}; }
};
struct F16Weights {
  const uint16_t* data;
  int64_t panel_stride, step;
  Vec at(int64_t k, int p) const { return load_f16(data + p * panel_stride + k * step); }
  F16Weights panels_from(int64_t p) const { return {data + p * panel_stride, panel_stride, step}; }
};
struct BF16Weights {
  const uint16_t* data;
  int64_t panel_stride, step;
  Vec at(int64_t k, int p) const { return load_bf16(data + p * panel_stride + k * step); }
  BF16Weights panels_from(int64_t p) const { return {data + p * panel_stride, panel_stride, step}; }
};

// A panel's columns of a row, `left` of which (or all sixteen) are real. Whole ones take the plain instructions: loads wait for
// masked stores.
inline Vec load_columns(const float* p, int64_t left) { return left >= kLanes ? load(p) : load_n(p, left); }
inline void store_columns(float* p, Vec a, int64_t left) {
  if (left >= kLanes)
    store(p, a);
  else
    store_n(p, a, left);
}

// What happens to a tile before and after the sum over [k_begin, k_end).
struct TileEnds {
  bool resume = false;          // start from y instead of zero
  const float* bias = nullptr;  // added at the end, [16 panels] of the tile
};

// y[r][16 p + lane] = sum_k x[r][k] w(k, p, lane) for kRows rows and kPanels panels, `columns` of them real; and for the rows
// after them, `tiles` times in all.
template <int kRows, int kPanels, class Weights>
__attribute__((noinline)) void float_tile_run(const float* x, int64_t x_stride, const Weights& w, int64_t k_begin,
                                              int64_t k_end, TileEnds ends, float* y, int64_t y_stride, int64_t columns,
                                              int64_t tiles) {
  for (; tiles > 0; --tiles) {
    Vec sum[kRows][kPanels];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p)
        sum[r][p] = ends.resume ? load_columns(y + r * y_stride + p * kLanes, columns - p * kLanes) : zero();
    for (int64_t k = k_begin; k < k_end; ++k) {
      Vec weights[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) weights[p] = w.at(k, p);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec value = set1(x[r * x_stride + k]);
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) sum[r][p] = fma(value, weights[p], sum[r][p]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const int64_t left = columns - p * kLanes;
        const Vec out = ends.bias ? sum[r][p] + load_columns(ends.bias + p * kLanes, left) : sum[r][p];
        store_columns(y + r * y_stride + p * kLanes, out, left);
      }
    x += kRows * x_stride;
    y += kRows * y_stride;
  }
}

// Calls f with an integral_constant for `count` in 1..kMost.
template <int kMost, class F>
inline void with_constant(int64_t count, F f) {
  if constexpr (kMost > 1) {
    if (count < kMost) return with_constant<kMost - 1>(count, f);
  }
  f(std::integral_constant<int, kMost>{});
}

// Calls run(rows, panels, row, panel, tiles), the first two integral constants, for num_rows x num_panels in register tiles:
// kPanels panels with all rows before the next, `tiles` tiles of kRows rows below each other at once (a call a tile costs up to
// a fifth of the time), then what is left of the rows; a single row kSingle panels wide.
template <int kRows, int kPanels, int kSingle, class F>
inline void for_tiles(int64_t num_rows, int64_t num_panels, F run) {
  if (num_rows == 1) {
    constexpr auto kOne = std::integral_constant<int, 1>{};
    for (int64_t panel = 0; panel < num_panels; panel += kSingle)
      with_constant<kSingle>(num_panels - panel, [&](auto panels) { run(kOne, panels, 0, panel, 1); });
    return;
  }
  const int64_t tiles = num_rows / kRows, rest = num_rows % kRows;
  for (int64_t panel = 0; panel < num_panels; panel += kPanels)
    with_constant<kPanels>(num_panels - panel, [&](auto panels) {
      if (tiles > 0) run(std::integral_constant<int, kRows>{}, panels, 0, panel, tiles);
      if (rest > 0) with_constant<kRows>(rest, [&](auto rows) { run(rows, panels, tiles * kRows, panel, 1); });
    });
}

// All rows against panels [0, num_panels) of `w`.
template <class Weights>
inline void float_tiles(const float* x, int64_t x_stride, int64_t num_rows, const Weights& w, int64_t num_panels,
                        int64_t k_begin, int64_t k_end, TileEnds ends, float* y, int64_t y_stride, int64_t columns) {
  for_tiles<kTileRows, kTilePanels, kSingleRowPanels>(
      num_rows, num_panels, [&](auto rows, auto panels, int64_t row, int64_t panel, int64_t tiles) {
        const TileEnds here{ends.resume, ends.bias ? ends.bias + panel * kLanes : nullptr};
        float_tile_run<rows(), panels()>(x + row * x_stride, x_stride, w.panels_from(panel), k_begin, k_end, here,
                                         y + row * y_stride + panel * kLanes, y_stride, columns - panel * kLanes, tiles);
      });
}

// Inputs summed before the tile's accumulators rest in y, so that a group of panels stays in cache over all rows.
inline constexpr int64_t kInputBlock = 256;

template <class Weights>
inline void float_matmul(const MatmulArgs& args, const Weights& w) {
  const int64_t inputs = args.weights.inputs, first = args.panel_begin * kLanes;
  const int64_t num_panels = args.panel_end - args.panel_begin;
  const int64_t columns =
      (args.weights.outputs - first < num_panels * kLanes) ? args.weights.outputs - first : num_panels * kLanes;
  const int64_t block = args.num_rows == 1 ? inputs : kInputBlock;
  for (int64_t k = 0; k < inputs; k += block) {
    const int64_t k_end = k + block < inputs ? k + block : inputs;
    const TileEnds ends{k > 0, k_end == inputs && args.bias ? args.bias + first : nullptr};
    float_tiles(args.x, args.x_stride, args.num_rows, w.panels_from(args.panel_begin), num_panels, k, k_end, ends,
                args.y + first, args.y_stride, columns);
  }
}

}  // namespace
}  // namespace pythia
