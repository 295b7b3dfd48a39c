// Matmul of int8 rows by q8 or q4 panels: an exact integer dot per group of kQuantGroup inputs, times the weights'
// multiples in float, then one fused multiply-add per group, groups in order; the outputs' units come last. Included through
// bodies.inl.
#pragma once

#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"
#include "quant/q4_levels.h"

namespace pythia {
namespace {

// kQ4Levels as unsigned codes.
struct Q4Table {
  alignas(16) uint8_t codes[16];
};
inline constexpr Q4Table kQ4Table = [] {
  Q4Table table = {};
  for (int i = 0; i < 16; ++i) table.codes[i] = static_cast<uint8_t>(kQ4Levels[i] + 128);
  return table;
}();

inline constexpr int kGroupSteps = kQuantGroup / 4;

// A format's multiples, and a group's codes: `kLoads` loads of 64 bytes, each giving the codes of `kSteps` steps of four
// inputs, kStride steps apart.
struct Q8Group {
  static constexpr WeightFormat kFormat = WeightFormat::kQ8;
  static constexpr int kLoads = kGroupSteps, kSteps = 1, kStride = 0;
  static Vec load_multiples(const uint8_t* p) { return to_float(load_u8(p)); }
  static Codes levels(Codes loaded, int /*step*/) { return loaded; }
};
struct Q4Group {
  static constexpr WeightFormat kFormat = WeightFormat::kQ4;
  static constexpr int kLoads = kGroupSteps / 2, kSteps = 2, kStride = kLoads;
  static Vec load_multiples(const uint8_t* p) { return to_float(load_i8(p)); }
  static Codes levels(Codes loaded, int step) {
    return step == 0 ? low_levels(loaded, kQ4Table.codes) : high_levels(loaded, kQ4Table.codes);
  }
};

// Panels as they lie in memory.
struct QuantPanels {
  const uint8_t* data;
  int64_t stride_bytes;

  template <class Group>
  const uint8_t* multiples(int64_t group) const {
    return data + group_multiples_offset_bytes(Group::kFormat, group);
  }
  template <class Group>
  const uint8_t* codes(int64_t group) const {
    return data + group_codes_offset_bytes(Group::kFormat, group);
  }
  Vec load_units(int64_t panel) const {
    return load(reinterpret_cast<const float*>(data + (panel + 1) * stride_bytes - kUnitsBytes));
  }
  QuantPanels panels_from(int64_t panel) const { return {data + panel * stride_bytes, stride_bytes}; }
};

// Where a tile has a group's multiples and levels from: the panels, whose bytes each tile converts, or
struct InPanels {
  static constexpr bool kMultiples = false, kLevels = false;
};
// what was prepared for all rows, of groups from first_group on.
template <bool kLooksUp>
struct Prepared {
  static constexpr bool kMultiples = true, kLevels = kLooksUp;
  const Multiples* multiples;  // [groups][panels of the tile]
  const Codes* levels;         // [groups][kGroupSteps][panels of the tile], if kLooksUp
  int64_t first_group;

  const Multiples* multiples_at(int64_t group, int panels) const { return multiples + (group - first_group) * panels; }
  const Codes* levels_at(int64_t group, int panels) const { return levels + (group - first_group) * kGroupSteps * panels; }
};

// What happens to a tile before and after the sum over its groups.
struct QuantEnds {
  bool resume = false;          // start from y instead of zero
  bool last = false;            // these are the matrix's last groups: times the outputs' units,
  const float* bias = nullptr;  // plus this, [16 panels] of the tile or null
};

// What a tile asks for on its way: cache lines of its panels' neighbours, or further on in its panel, from `begin` on, so many
// with each group. Otherwise the first tile of each group of panels would wait for memory, and the others leave it idle.
struct LinesAhead {
  const uint8_t* begin;
  int64_t per_step;
};
struct NothingAhead {};

inline constexpr int64_t kCodeBytes = code_bytes(kCodeLayout);

// Calls f(step, codes of kPanels panels) for each step of a group.
template <int kPanels, class Group, class F>
__attribute__((always_inline)) inline void for_steps(const uint8_t* first, int64_t stride_bytes, F f) {
#pragma GCC unroll 8
  for (int load = 0; load < Group::kLoads; ++load) {
    Codes loaded[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) loaded[p] = load_codes(first + p * stride_bytes + load * 4 * kLanes);
#pragma GCC unroll 2
    for (int step = 0; step < Group::kSteps; ++step) {
      Codes codes[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) codes[p] = Group::levels(loaded[p], step);
      f(load + step * Group::kStride, codes);
    }
  }
}

// y[r][16 p + lane] over groups [group_begin, group_end) for kRows rows and kPanels panels. The loop over groups has few
// instructions beside the dots, and the ends no masks: where other work shares the core, each costs time.
template <int kRows, int kPanels, class Group, class Source, class Ahead>
__attribute__((always_inline)) inline void quant_tile(const QuantizedRows& x, const QuantPanels& w, const Source& source,
                                                      int64_t group_begin, int64_t group_end, const QuantEnds& ends,
                                                      Ahead& ahead, float* y, int64_t y_stride) {
  Vec sum[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) sum[r][p] = ends.resume ? load(y + r * y_stride + p * kLanes) : zero();
  const uint8_t* block = w.template multiples<Group>(group_begin);
  for (int64_t group = group_begin; group < group_end; block += quant_block_bytes(Group::kFormat)) {
    const int64_t block_end = group + kQuantBlockGroups < group_end ? group + kQuantBlockGroups : group_end;
    const uint8_t *multiples_at = block, *codes_at = block + kMultiplesBytes;
    for (; group < block_end; ++group, multiples_at += kPanelWidth, codes_at += group_codes_bytes(Group::kFormat)) {
      IVec dots[kRows][kPanels];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) dots[r][p] = dot_start(x.offsets + r * x.groups_stride + group);
      if constexpr (std::is_same_v<Ahead, LinesAhead>)
        for (int64_t i = 0; i < ahead.per_step; ++i, ahead.begin += kAlignment)
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) __builtin_prefetch(ahead.begin + p * w.stride_bytes, 0, 2);
      const std::byte* inputs = x.codes + group * kQuantGroup * kCodeBytes;
      const auto add_step = [&](int step, const Codes* codes) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p)
            dots[r][p] = dot_step(dots[r][p], codes[p], inputs + r * x.codes_stride_bytes + step * 4 * kCodeBytes);
      };
      if constexpr (Source::kLevels) {
        const Codes* codes = source.levels_at(group, kPanels);
#pragma GCC unroll 8
        for (int step = 0; step < kGroupSteps; ++step) add_step(step, codes + step * kPanels);
      } else {
        for_steps<kPanels, Group>(codes_at, w.stride_bytes, add_step);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        Multiples multiples;
        if constexpr (Source::kMultiples)
          multiples = source.multiples_at(group, kPanels)[p];
        else
          multiples = with_base(Group::load_multiples(multiples_at + p * w.stride_bytes));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          sum[r][p] = fma(times(dots[r][p], multiples), set1(x.scales[r * x.groups_stride + group]), sum[r][p]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const Vec unit = w.load_units(p), bias = ends.bias ? load(ends.bias + p * kLanes) : zero();
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) store(y + r * y_stride + p * kLanes, ends.last ? fma(sum[r][p], unit, bias) : sum[r][p]);
  }
}

// A tile and those of the rows after it, `tiles` in all.
template <int kRows, int kPanels, class Group, class Source, class Ahead>
__attribute__((noinline)) void quant_tiles_down(QuantizedRows x, const QuantPanels& w, Source source, int64_t group_begin,
                                                int64_t group_end, QuantEnds ends, Ahead ahead, float* y, int64_t y_stride,
                                                int64_t tiles) {
  for (; tiles > 0; --tiles) {
    quant_tile<kRows, kPanels, Group>(x, w, source, group_begin, group_end, ends, ahead, y, y_stride);
    x.codes += kRows * x.codes_stride_bytes;
    x.scales += kRows * x.groups_stride;
    x.offsets += kRows * x.groups_stride;
    y += kRows * y_stride;
  }
}

// Few rows ask for their panels this far ahead, where a matrix has so many groups: short ones are of models that stay in a
// cache. Some hardware does as well alone; on an Intel Xeon, decoding of pythia-160m takes a fifth to a quarter less time.
inline constexpr int64_t kAheadBytes = 2048;
inline constexpr int64_t kLeastGroupsAhead = 16;

// Panels for few rows, one after another: memory serves one stream faster than panels side by side, and hardware asks for it
// ahead, also from panel to panel.
template <int kRows, class Group, class Ahead>
__attribute__((noinline)) void quant_tiles_along(const QuantizedRows& x, QuantPanels w, int64_t groups, const float* bias,
                                                 float* y, int64_t y_stride, int64_t panels) {
  constexpr int64_t kLinesPerGroup = ceil_div(quant_block_bytes(Group::kFormat), kQuantBlockGroups * kAlignment);
  for (; panels > 0; --panels) {
    Ahead ahead{};
    if constexpr (std::is_same_v<Ahead, LinesAhead>) ahead = {w.data + kAheadBytes, kLinesPerGroup};
    quant_tile<kRows, 1, Group>(x, w, InPanels(), 0, groups, {false, true, bias}, ahead, y, y_stride);
    w = w.panels_from(1);
    y += kLanes;
    if (bias) bias += kLanes;
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

inline QuantizedRows rows_from(QuantizedRows x, int64_t row) {
  x.codes += row * x.codes_stride_bytes;
  x.scales += row * x.groups_stride;
  x.offsets += row * x.groups_stride;
  return x;
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

// Groups summed before the accumulators rest in y, so that the rows' codes stay in the second-level cache over all panels.
inline constexpr int64_t kGroupBlock = 32;

// Multiples are converted once for all rows. Levels that are looked up (q4) are so too where there are kLookUpRows, in blocks
// that stay in the first-level cache.
inline constexpr int64_t kLookUpRows = 4 * kQuantRows;
inline constexpr int64_t kLookUpBlock = 16;
static_assert(kGroupBlock % kQuantBlockGroups == 0 && kLookUpBlock % kQuantBlockGroups == 0);

// What is prepared of a block of a tile's panels, on a thread's stack.
template <bool kLooksUp>
struct PreparedBlock {
  static constexpr int64_t kGroups = kLooksUp ? kLookUpBlock : kGroupBlock;
  Multiples multiples[kGroups * kQuantPanels];
  Codes levels[kLooksUp ? kGroups * kGroupSteps * kQuantPanels : 1];

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
        for_steps<kPanels, Group>(w.template codes<Group>(group), w.stride_bytes, [=](int step, const Codes(&from)[kPanels]) {
#pragma GCC unroll 4
          for (int p = 0; p < kPanels; ++p) levels_to[step * kPanels + p] = from[p];
        });
    }
    return {multiples, levels, group_begin};
  }
};

// All rows and `num_panels` whole panels, of which `w` is the first.
template <class Group, bool kLooksUp>
__attribute__((noinline)) void quant_blocks(const MatmulArgs& args, const QuantPanels& w, int64_t num_panels) {
  constexpr int64_t block = PreparedBlock<kLooksUp>::kGroups;
  const int64_t first = args.panel_begin * kLanes, groups = ceil_div(args.weights.inputs, kQuantGroup);
  PreparedBlock<kLooksUp> buffer;
  for (int64_t group = 0; group < groups; group += block) {
    const int64_t group_end = group + block < groups ? group + block : groups;
    const bool last = group_end == groups;
    const int64_t steps = group_end - group, row_tiles = ceil_div(args.num_rows, kQuantRows);
    const int64_t lines = ceil_div(steps, kQuantBlockGroups) * (quant_block_bytes(Group::kFormat) / kAlignment) + 1;
    const int64_t lines_per_step = ceil_div(lines, row_tiles * steps), tiles_ahead = ceil_div(lines, lines_per_step * steps);
    Prepared<kLooksUp> prepared{};
    for_tiles<kQuantRows, kQuantPanels, 1>(
        args.num_rows, num_panels, [&](auto rows, auto panels, int64_t row, int64_t panel, int64_t tiles) {
          const QuantPanels here = w.panels_from(panel), next = w.panels_from(panel + panels());
          if (row == 0) prepared = buffer.template prepare<panels(), Group>(here, group, group_end);
          const QuantEnds ends{group > 0, last, last && args.bias ? args.bias + first + panel * kLanes : nullptr};
          const auto run = [&](int64_t from, auto ahead, int64_t count) {
            quant_tiles_down<rows(), panels(), Group>(rows_from(args.quantized_x, from), here, prepared, group, group_end, ends,
                                                      ahead, args.y + from * args.y_stride + first + panel * kLanes,
                                                      args.y_stride, count);
          };
          int64_t begun = 0;
          if constexpr (rows() == kQuantRows && panels() == kQuantPanels) {
            begun = tiles < tiles_ahead ? tiles : tiles_ahead;
            run(row, LinesAhead{next.template multiples<Group>(group), lines_per_step}, begun);
          }
          run(row + begun * rows(), NothingAhead{}, tiles - begun);
        });
  }
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
