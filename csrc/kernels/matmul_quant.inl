// Matmul of int8 rows by q8 or q4 panels: an exact integer dot per group of kQuantGroup inputs, times the weights'
// multiples in float, then one fused multiply-add per group, groups in order; the outputs' units come last. Included through
// bodies.inl.
#pragma once

#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"
#include "kernels/quant_tile.inl"

namespace pythia {
namespace {

// Few rows ask for their panels this far ahead, where a matrix has so many groups: short ones are of models that stay in a
// cache. Some hardware does as well alone; on an Intel Xeon, decoding of pythia-160m takes a fifth to a quarter less time.
inline constexpr int64_t kAheadBytes = 2048;
inline constexpr int64_t kLeastGroupsAhead = 16;

// Panels for few rows, one after another: memory serves one stream faster than panels side by side, and hardware asks for it
// ahead, also from panel to panel.
template <int kRows, class Group, class Ahead>
__attribute__((noinline)) void quant_tiles_along(const QuantizedRows& x, const QuantPanels& w, int64_t groups,
                                                 const float* bias, float* y, int64_t y_stride, int64_t panels) {
  constexpr int64_t kLinesPerGroup = ceil_div(quant_block_bytes(Group::kFormat), kQuantBlockGroups * kAlignment);
  TileInputs<kRows, 1> in(x, w);
  QuantEnds ends{.resume = false, .last = true, .bias = bias ? bias : kNoBias, .from = {}, .to = {y, y_stride}};
  for (; panels > 0; --panels) {
    Ahead ahead{};
    if constexpr (std::is_same_v<Ahead, LinesAhead>) ahead = {in.block + kAheadBytes, kLinesPerGroup};
    quant_tile<kRows, 1, Group>(in, groups, InPanels(), ends, ahead);
    in.group = x.groups;
    in.block += w.stride_bytes;
    ends.to.first += kLanes;
    if (bias) ends.bias += kLanes;
  }
}

template <class Group>
inline void quant_few_rows(const QuantizedRows& x, int64_t num_rows, const QuantPanels& w, int64_t groups, const float* bias,
                           float* y, int64_t y_stride, int64_t panels) {
  with_constant<kQuantRows>(num_rows, [&](auto rows) {
    if (groups >= kLeastGroupsAhead)
      quant_tiles_along<rows(), Group, LinesAhead>(x, w, groups, bias, y, y_stride, panels);
    else
      quant_tiles_along<rows(), Group, NothingAhead>(x, w, groups, bias, y, y_stride, panels);
  });
}

inline QuantizedRows rows_from(const QuantizedRows& x, int64_t row, int64_t group = 0) {
  return {x.groups + row * x.stride_bytes + group * kInputsBytes, x.stride_bytes};
}

// A matrix's last panel with less than sixteen outputs, in whole panels beside y.
template <class Group>
__attribute__((noinline)) void quant_last_panel(const MatmulArgs& args, const QuantPanels& w, int64_t groups, int64_t first) {
  const int64_t outputs = args.weights.outputs - first;
  float bias[kLanes], whole[kQuantRows * kLanes];
  if (args.bias) store(bias, load_n(args.bias + first, outputs));
  for (int64_t row = 0; row < args.num_rows; row += kQuantRows) {
    const int64_t rows = args.num_rows - row < kQuantRows ? args.num_rows - row : kQuantRows;
    quant_few_rows<Group>(rows_from(args.quantized_x, row), rows, w, groups, args.bias ? bias : nullptr, whole, kLanes, 1);
    for (int64_t r = 0; r < rows; ++r) store_n(args.y + (row + r) * args.y_stride + first, load(whole + r * kLanes), outputs);
  }
}

// So many rows and groups at a time that the rows' codes stay in a second-level cache over all panels; and of these groups, so
// many that a tile's panels stay in a first-level cache of 32 KiB over all rows, while the sums rest side by side: rows of y
// may be far apart, in few of a cache's sets.
inline constexpr int64_t kBlockRows = 66 * kQuantRows;
inline constexpr int64_t kBlockGroups = 132;
inline constexpr int64_t kTileGroups = 36 / kQuantPanels;
static_assert(kBlockGroups % kQuantBlockGroups == 0 && kTileGroups % kQuantBlockGroups == 0);

// Multiples are converted once for all rows. Levels that are looked up (q4) are so too where there are kLookUpRows.
inline constexpr int64_t kLookUpRows = 4 * kQuantRows;

// What a thread has on its stack: what is prepared of a tile's panels, and its sums.
template <bool kLooksUp>
struct TileBuffer {
  Multiples multiples[kTileGroups * kQuantPanels];
  Codes levels[kLooksUp ? kTileGroups * kGroupSteps * kQuantPanels : 1];
  alignas(kAlignment) float sums[kBlockRows * kQuantPanels * kLanes];

  template <int kPanels, class Group>
  Prepared<kLooksUp> prepare(const QuantPanels& w, int64_t group_begin, int64_t group_end) {
    Multiples* to = multiples;
    for (int64_t group = group_begin; group < group_end; ++group)
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p)
        *to++ = with_base(Group::load_multiples(w.panels_from(p).template multiples<Group>(group)));
    if constexpr (kLooksUp) {
      Codes* levels_to = levels;
      for (int64_t group = group_begin; group < group_end; ++group, levels_to += kGroupSteps * kPanels)
        for_steps<kPanels, Group>(w.template codes<Group>(group), Strides<kPanels>(w.stride_bytes),
                                  [=](int step, const Codes(&from)[kPanels]) {
#pragma GCC unroll 4
                                    for (int p = 0; p < kPanels; ++p) levels_to[step * kPanels + p] = from[p];
                                  });
    }
    return {multiples, levels};
  }
};

// Of a short matrix more rows come in several blocks, for the later of which its panels are in a cache.
inline constexpr int64_t kMostRowsAhead = 64;

// At most kBlockRows rows and a tile's panels, groups [begin, end), at most kBlockGroups; `ends` are those of all. `ahead`:
// asks for the next panels.
template <int kPanels, class Group, bool kLooksUp>
inline void quant_panels(const QuantizedRows& x, int64_t num_rows, const QuantPanels& w, int64_t begin, int64_t end,
                         const QuantEnds& ends, bool ahead, TileBuffer<kLooksUp>& buffer) {
  const int64_t tiles = num_rows / kQuantRows, rest = num_rows % kQuantRows;
  const int64_t parts = ceil_div(end - begin, kTileGroups), most = round_up(ceil_div(end - begin, parts), kQuantBlockGroups);
  const Sums between = {buffer.sums, kPanels * kLanes};
  for (int64_t group = begin; group < end; group += most) {
    const int64_t groups = group + most < end ? most : end - group;
    QuantEnds here = ends;
    if (group > begin) here.resume = true, here.from = between;
    if (group + groups < end) here.last = false, here.to = between;
    const Prepared<kLooksUp> prepared = buffer.template prepare<kPanels, Group>(w, group, group + groups);
    const auto run = [&](auto rows, int64_t row, auto lines, int64_t count) {
      QuantEnds of_rows = here;
      of_rows.from = here.from.rows_from(row), of_rows.to = here.to.rows_from(row);
      quant_tiles_down<rows(), kPanels, Group>(rows_from(x, row, group), w.template from_group<Group>(group), groups, prepared,
                                               of_rows, lines, count);
    };
    constexpr auto kAllRows = std::integral_constant<int, kQuantRows>{};
    int64_t begun = 0;
    if constexpr (kPanels == kQuantPanels)
      if (ahead) {
        const int64_t lines = ceil_div(groups, kQuantBlockGroups) * (quant_block_bytes(Group::kFormat) / kAlignment) + 1;
        const int64_t lines_per_step = ceil_div(lines, ceil_div(num_rows, kQuantRows) * groups);
        const int64_t tiles_ahead = ceil_div(lines, lines_per_step * groups);
        begun = tiles < tiles_ahead ? tiles : tiles_ahead;
        run(kAllRows, 0, LinesAhead{w.panels_from(kPanels).template multiples<Group>(group), lines_per_step}, begun);
      }
    run(kAllRows, begun * kQuantRows, NothingAhead{}, tiles - begun);
    if (rest > 0) with_constant<kQuantRows>(rest, [&](auto rows) { run(rows, tiles * kQuantRows, NothingAhead{}, 1); });
  }
}

// All rows and `num_panels` whole panels, of which `w` is the first.
template <class Group, bool kLooksUp>
__attribute__((noinline)) void quant_blocks(const MatmulArgs& args, const QuantPanels& w, int64_t num_panels) {
  const int64_t first = args.panel_begin * kLanes, groups = ceil_div(args.weights.inputs, kQuantGroup);
  const int64_t most_rows = round_up(ceil_div(args.num_rows, ceil_div(args.num_rows, kBlockRows)), kQuantRows);
  TileBuffer<kLooksUp> buffer;
  for (int64_t row = 0; row < args.num_rows; row += most_rows)
    for (int64_t begin = 0; begin < groups; begin += kBlockGroups)
      for (int64_t panel = 0; panel < num_panels; panel += kQuantPanels)
        with_constant<kQuantPanels>(num_panels - panel, [&](auto panels) {
          const int64_t rows = args.num_rows - row, end = begin + kBlockGroups, output = first + panel * kLanes;
          const Sums y = {args.y + row * args.y_stride + output, args.y_stride};
          const QuantEnds ends{begin > 0, end >= groups, args.bias ? args.bias + output : kNoBias, y, y};
          quant_panels<panels(), Group, kLooksUp>(rows_from(args.quantized_x, row), rows < most_rows ? rows : most_rows,
                                                  w.panels_from(panel), begin, end < groups ? end : groups, ends,
                                                  groups >= kLeastGroupsAhead || args.num_rows <= kMostRowsAhead, buffer);
        });
}

template <class Group>
inline void quant_matmul(const MatmulArgs& args, int64_t panel_stride_bytes) {
  constexpr bool kLooksUp = Group::kSteps > 1;
  const int64_t groups = ceil_div(args.weights.inputs, kQuantGroup), whole = args.weights.outputs / kLanes;
  const int64_t num_panels = (args.panel_end < whole ? args.panel_end : whole) - args.panel_begin;
  const QuantPanels all{reinterpret_cast<const uint8_t*>(args.weights.data), panel_stride_bytes};
  const QuantPanels w = all.panels_from(args.panel_begin);
  if (args.num_rows <= kQuantRows) {
    const int64_t first = args.panel_begin * kLanes;
    quant_few_rows<Group>(args.quantized_x, args.num_rows, w, groups, args.bias ? args.bias + first : nullptr, args.y + first,
                          args.y_stride, num_panels);
  } else if (kLooksUp && args.num_rows >= kLookUpRows) {
    quant_blocks<Group, kLooksUp>(args, w, num_panels);
  } else {
    quant_blocks<Group, false>(args, w, num_panels);
  }
  if (args.panel_end > whole) quant_last_panel<Group>(args, all.panels_from(whole), groups, whole * kLanes);
}

}  // namespace
}  // namespace pythia
