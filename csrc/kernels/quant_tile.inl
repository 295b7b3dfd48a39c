// Register tiles of the quantized matmul (matmul_quant.inl): some rows by some panels, summed over groups of inputs. Included
// through bodies.inl.
#pragma once

#include "kernels/kernels.h"
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
  QuantPanels panels_from(int64_t panel) const { return {data + panel * stride_bytes, stride_bytes}; }

  // From a block's first group on.
  template <class Group>
  QuantPanels from_group(int64_t group) const {
    return {multiples<Group>(group), stride_bytes};
  }
};

// Where a tile has a group's multiples and levels from: the panels, whose bytes each tile converts, or
struct InPanels {
  static constexpr bool kMultiples = false, kLevels = false;
};
// what was prepared for all rows, of the tile's groups.
template <bool kLooksUp>
struct Prepared {
  static constexpr bool kMultiples = true, kLevels = kLooksUp;
  const Multiples* multiples;  // [groups][panels of the tile]
  const Codes* levels;         // [groups][kGroupSteps][panels of the tile], if kLooksUp
};

// Rows of a tile's sums, from the first on.
struct Sums {
  float* first;
  int64_t stride;

  Sums rows_from(int64_t row) const { return {first + row * stride, stride}; }
};

inline constexpr float kNoBias[kQuantPanels * kLanes] = {};

// What happens to a tile before and after the sum over its groups.
struct QuantEnds {
  bool resume;        // start from `from` instead of zero
  bool last;          // these are the matrix's last groups: times the outputs' units,
  const float* bias;  // plus this, [16 panels] of the tile
  Sums from, to;
};

// What a tile asks for on its way: cache lines of its panels' neighbours, or further on in its panel, from `begin` on, so many
// with each group. Otherwise the first tile of each group of panels would wait for memory, and the others leave it idle.
struct LinesAhead {
  const uint8_t* begin;
  int64_t per_step;
};
struct NothingAhead {};

// A code, a group of inputs, and where its scale begins.
inline constexpr int64_t kCodeBytes = code_size_bytes(kCodeLayout);
inline constexpr int64_t kInputsBytes = quantized_group_bytes(kCodeLayout);
inline constexpr int64_t kScaleBytes = scale_offset_bytes(kCodeLayout);

// How far rows or panels are from the first: one, two and three strides are of an address, in one or two registers for all.
template <int kCount>
class Strides {
 public:
  explicit Strides(int64_t stride) : one_(stride), three_(3 * stride) {}

  int64_t operator[](int i) const { return i < 3 ? i * one_ : three_ + (i - 3) * one_; }

  // Or the compiler moves a pointer for each row and panel, and has no registers left for anything else.
  void forget() {
    asm("" : "+r"(one_));
    if constexpr (kCount > 3) asm("" : "+r"(three_));
  }

 private:
  int64_t one_, three_;
};

// Calls f(step, codes of kPanels panels) for each step of a group.
template <int kPanels, class Group, class F>
__attribute__((always_inline)) inline void for_steps(const uint8_t* first, const Strides<kPanels>& stride_bytes, F f) {
#pragma GCC unroll 8
  for (int load = 0; load < Group::kLoads; ++load) {
    Codes loaded[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) loaded[p] = load_codes(first + stride_bytes[p] + load * 4 * kLanes);
#pragma GCC unroll 2
    for (int step = 0; step < Group::kSteps; ++step) {
      Codes codes[kPanels];
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) codes[p] = Group::levels(loaded[p], step);
      f(load + step * Group::kStride, codes);
    }
  }
}

// What a tile reads: rows, from a group on, and panels, from a block on.
template <int kRows, int kPanels>
struct TileInputs {
  const std::byte* group;
  const uint8_t* block;
  Strides<kRows> row_stride_bytes;
  Strides<kPanels> panel_stride_bytes;

  TileInputs(const QuantizedRows& x, const QuantPanels& w)
      : group(x.groups), block(w.data), row_stride_bytes(x.stride_bytes), panel_stride_bytes(w.stride_bytes) {}

  const std::byte* codes(int row) const { return group + row_stride_bytes[row]; }
  float scale(int row) const { return *reinterpret_cast<const float*>(codes(row) + kScaleBytes); }
  const int32_t* offset(int row) const { return reinterpret_cast<const int32_t*>(codes(row) + kScaleBytes + sizeof(float)); }
};

// Adds a group's products to `sum`, and moves to the next one, but for the block.
template <int kRows, int kPanels, class Group, class Source, class Ahead>
__attribute__((always_inline)) inline void add_group(Vec (&sum)[kRows][kPanels], TileInputs<kRows, kPanels>& in,
                                                     const uint8_t* multiples_at, const uint8_t* codes_at, Source& source,
                                                     Ahead& ahead) {
  in.row_stride_bytes.forget();
  in.panel_stride_bytes.forget();
  IVec dots[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) dots[r][p] = dot_start(in.offset(r));
  if constexpr (std::is_same_v<Ahead, LinesAhead>)
    for (int64_t i = 0; i < ahead.per_step; ++i, ahead.begin += kAlignment)
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(ahead.begin + in.panel_stride_bytes[p], 0, 2);
  const auto add_step = [&](int step, const Codes* codes) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        const std::byte* four = in.codes(r) + step * 4 * kCodeBytes;
        // One row's at most: an address of two registers takes as long as two instructions, and loads are a limit too.
        dots[r][p] = r == 0 ? dot_step<true>(dots[r][p], codes[p], four) : dot_step<false>(dots[r][p], codes[p], four);
      }
  };
  if constexpr (Source::kLevels) {
#pragma GCC unroll 8
    for (int step = 0; step < kGroupSteps; ++step) add_step(step, source.levels + step * kPanels);
    source.levels += kGroupSteps * kPanels;
  } else {
    for_steps<kPanels, Group>(codes_at, in.panel_stride_bytes, add_step);
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    Multiples multiples;
    if constexpr (Source::kMultiples)
      multiples = source.multiples[p];
    else
      multiples = with_base(Group::load_multiples(multiples_at + in.panel_stride_bytes[p]));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r][p] = fma(times(dots[r][p], multiples), set1(in.scale(r)), sum[r][p]);
  }
  if constexpr (Source::kMultiples) source.multiples += kPanels;
  in.group += kInputsBytes;
}

// to[r][16 p + lane] over `groups` groups for kRows rows and kPanels panels. The loop over groups has few instructions beside
// the dots, the ends few and no masks: where other work shares the core, each costs time.
template <int kRows, int kPanels, class Group, class Source, class Ahead>
__attribute__((always_inline)) inline void quant_tile(TileInputs<kRows, kPanels>& in, int64_t groups, Source source,
                                                      const QuantEnds& ends, Ahead& ahead) {
  Vec sum[kRows][kPanels];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) sum[r][p] = zero();
  if (ends.resume) {
    Strides<kRows> from_stride(ends.from.stride);
    from_stride.forget();
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sum[r][p] = load(ends.from.first + from_stride[r] + p * kLanes);
  }
  const uint8_t* at = in.block;
  for (int64_t left = groups; left > 0; left -= kQuantBlockGroups) {
    const uint8_t* multiples_at = at;
    at += kMultiplesBytes;
    for (int64_t n = left < kQuantBlockGroups ? left : kQuantBlockGroups; n > 0; --n) {
      add_group<kRows, kPanels, Group>(sum, in, multiples_at, at, source, ahead);
      multiples_at += kPanelWidth;
      at += group_codes_bytes(Group::kFormat);
    }
  }
  if (ends.last)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const Vec unit = load(reinterpret_cast<const float*>(at + in.panel_stride_bytes[p])), bias = load(ends.bias + p * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r][p] = fma(sum[r][p], unit, bias);
    }
  Strides<kRows> to_stride(ends.to.stride);
  to_stride.forget();
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) store(ends.to.first + to_stride[r] + p * kLanes, sum[r][p]);
}

// A tile and those of the rows after it, `tiles` in all.
template <int kRows, int kPanels, class Group, class Source, class Ahead>
__attribute__((noinline)) void quant_tiles_down(const QuantizedRows& x, const QuantPanels& w, int64_t groups, Source source,
                                                QuantEnds ends, Ahead ahead, int64_t tiles) {
  TileInputs<kRows, kPanels> in(x, w);
  const int64_t next_rows = kRows * x.stride_bytes - groups * kInputsBytes;
  for (; tiles > 0; --tiles) {
    quant_tile<kRows, kPanels, Group>(in, groups, source, ends, ahead);
    in.group += next_rows;
    ends.from = ends.from.rows_from(kRows);
    ends.to = ends.to.rows_from(kRows);
  }
}

}  // namespace
}  // namespace pythia
