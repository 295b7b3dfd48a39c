// Scores and weighted values of one block of queries against keys and values in int16 codes (KvFormat::kI16). Queries get codes
// too, and so do the softmax weights of a chunk, times the values' scales. Sums of products are exact integers, so their order
// is free. Included through bodies.inl.
#pragma once

#include "kernels/attention_scratch.h"
#include "kernels/attention_softmax.inl"
#include "kernels/codes.inl"
#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"

namespace pythia {
namespace {

// The largest magnitude of codes of queries and keys: no dot over head_dim leaves int32.
inline float score_code_limit(int64_t head_dim) {
  const double limit = __builtin_sqrt(2147483647.0 / static_cast<double>(round_up(head_dim, 2)));
  return limit < 32767.0 ? static_cast<float>(static_cast<int32_t>(limit)) : 32767.0f;
}

// Calls f(d, codes) for each sixteen of a row's n elements, lanes beyond n zero, and returns the codes' scale.
template <class F>
inline float encode_row(const float* x, int64_t n, float limit, F f) {
  IVec top = set1_i(0);
  for (int64_t d = 0; d < n; d += kLanes) top = max_i(magnitudes(load_n(x + d, n - d)), top);
  const CodeScale scale = code_scale(largest_of(top), limit);
  for (int64_t d = 0; d < n; d += kLanes) f(d, to_codes(load_n(x + d, n - d), scale));
  return scale.scale;
}

// Where a tile's pairs lie: pair k of panel p in the lanes at data + p * panel_stride + k * step, in bytes.
struct PairPanels {
  const std::byte* data;
  int64_t panel_stride, step;
};

// finish(row, panel, dots), the dots over pairs(row) pairs of rows x [row] with kPanels panels, kRows rows at a time; `tiles`
// times.
template <int kRows, int kPanels, class Pairs, class Finish>
__attribute__((noinline)) void pair_tile_run(const int16_t* x, int64_t x_stride, PairPanels w, Pairs pairs, Finish finish,
                                             int64_t tiles) {
  for (int64_t row = 0; row < tiles * kRows; row += kRows) {
    const int64_t count = pairs(row + kRows - 1);
    IVec sum[kRows][kPanels];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sum[r][p] = set1_i(0);
    for (int64_t k = 0; k < count; ++k) {
      IVec both[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) both[p] = load_i(w.data + p * w.panel_stride + k * w.step);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) sum[r][p] = pair_dot_step(sum[r][p], both[p], x + r * x_stride + 2 * k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) finish(row + r, p, to_float(sum[r][p]));
    x += kRows * x_stride;
  }
}

class I16Attention {
 public:
  using Exp = BinaryExp;

  I16Attention(const AttentionArgs& args, int16_t* query_codes) : args_(args), query_codes_(query_codes) {}

  void take_queries(const float* queries, int64_t rows) {
    const float limit = score_code_limit(args_.head_dim);
    const float* const end = args_.queries + args_.num_queries * args_.queries_stride;
    for (int64_t r = 0; r < rows; ++r) {
      // Rows lie apart, where no hardware expects them.
      if (const float* next = queries + (r + kRowsAhead) * args_.queries_stride; next < end)
        for (int64_t d = 0; d < args_.head_dim; d += kLanes) __builtin_prefetch(next + d);
      int16_t* codes = query_codes_ + r * query_stride_;
      const float scale = encode_row(queries + r * args_.queries_stride, args_.head_dim, limit,
                                     [codes](int64_t d, IVec c) { store_i16(codes + d, c); });
      factors_[r] = args_.scale * scale;
    }
  }
  float factor(int64_t row) const { return factors_[row]; }

  void score(int64_t row_begin, int64_t row_end, int64_t begin, int64_t keys, float* scores) const {
    const int64_t pairs = ceil_div(args_.head_dim, 2), panel_bytes = pairs * kPairBytes;
    const std::byte* panels = args_.cache.keys + begin / kLanes * panel_bytes;
    const float* scales = args_.cache.key_scales + begin;
    for_tiles<kTileRows, kTilePanels, kSingleRowPanels>(
        row_end - row_begin, ceil_div(keys, kLanes), [&](auto rows, auto count, int64_t row, int64_t panel, int64_t tiles) {
          float* out = scores + (row_begin + row) * kAttentionChunk + panel * kLanes;
          const float* panel_scales = scales + panel * kLanes;
          pair_tile_run<rows(), count()>(
              query_codes_ + (row_begin + row) * query_stride_, query_stride_,
              PairPanels{panels + panel * panel_bytes, panel_bytes, kPairBytes}, [pairs](int64_t) { return pairs; },
              [out, panel_scales](int64_t r, int64_t p, Vec dots) {
                store(out + r * kAttentionChunk + p * kLanes, dots * load(panel_scales + p * kLanes));
              },
              tiles);
        });
  }

  // Leaves the weights' codes at the beginning of the row, zero for keys that only later rows see.
  SoftmaxState weigh(int64_t row, int64_t begin, int64_t visible, int64_t keys, float* scores) {
    const float* scales = args_.cache.value_scales + begin;
    IVec top = set1_i(0);
    const SoftmaxState state = softmax_chunk<Exp>(scores, visible, factors_[row] * kLog2E, [&](int64_t i, Vec weight) {
      // What was left behind `visible` may be NaN.
      const Vec product = weight * (i + kLanes <= visible ? load(scales + i) : load_n(scales + i, visible - i));
      store(scores + i, product);
      top = max_i(magnitudes(product), top);
    });
    const CodeScale scale = code_scale(largest_of(top), kValueCodeLimit);
    weight_scales_[row] = __builtin_isnan(factors_[row]) ? factors_[row] : scale.scale;
    auto* codes = reinterpret_cast<int16_t*>(scores);  // behind what is read
    int64_t i = 0;
    for (; i < visible; i += kLanes) store_i16(codes + i, to_codes(load(scores + i), scale));
    for (; i < keys; i += kLanes) store_i16(codes + i, set1_i(0));
    return state;
  }

  template <class Visible>
  void sum_values(int64_t row_begin, int64_t row_end, int64_t begin, Visible visible, const float* weights, float* out) const {
    constexpr int64_t kCodesStride = 2 * kAttentionChunk;
    const auto* codes = reinterpret_cast<const int16_t*>(weights) + row_begin * kCodesStride;
    const int64_t stride = round_up(args_.head_dim, kLanes), pair_bytes = stride / kLanes * kPairBytes;
    const std::byte* values = args_.cache.values + begin / 2 * pair_bytes;
    for_tiles<kTileRows, kTilePanels, kSingleRowPanels>(
        row_end - row_begin, stride / kLanes, [&](auto rows, auto count, int64_t row, int64_t panel, int64_t tiles) {
          const auto pairs = [&, row](int64_t r) { return ceil_div(visible(row_begin + row + r), 2); };
          float* y = out + (row_begin + row) * stride + panel * kLanes;
          const float* scales = weight_scales_ + row_begin + row;
          pair_tile_run<rows(), count()>(
              codes + row * kCodesStride, kCodesStride, PairPanels{values + panel * kPairBytes, kPairBytes, pair_bytes}, pairs,
              [y, scales, stride](int64_t r, int64_t p, Vec dots) {
                store(y + r * stride + p * kLanes, dots * set1(scales[r]));
              },
              tiles);
        });
  }

  // Bytes of a pair of codes in each lane.
  static constexpr int64_t kPairBytes = 2 * kLanes * sizeof(int16_t);

 private:
  static constexpr float kLog2E = 1.44269504f;
  static constexpr int64_t kRowsAhead = 8;

  const AttentionArgs& args_;
  int16_t* query_codes_;
  const int64_t query_stride_ = round_up(args_.head_dim, kLanes);
  float factors_[kQueryBlock];
  float weight_scales_[kQueryBlock];
};

// Another thread may store the other position of a pair of values at the same time, so each writes its own half only.
inline void store_i16_cache(const StoreArgs& args) {
  const int64_t head_dim = args.head_dim, pairs = ceil_div(head_dim, 2), stride = round_up(head_dim, kLanes);
  const float score_limit = score_code_limit(head_dim);
  for (int64_t i = 0; i < args.num_positions; ++i) {
    const int64_t position = args.first_position + i, lane = position % kLanes;
    std::byte* key = args.cache.keys + position / kLanes * pairs * I16Attention::kPairBytes + lane * 4;
    const float key_scale = encode_row(args.keys + i * args.stride, head_dim, score_limit, [&](int64_t d, IVec codes) {
      int16_t both[kLanes];
      store_i16(both, codes);
      const int64_t count = pairs - d / 2 < kLanes / 2 ? pairs - d / 2 : kLanes / 2;
      for (int64_t pair = 0; pair < count; ++pair)
        __builtin_memcpy(key + (d / 2 + pair) * I16Attention::kPairBytes, both + 2 * pair, 4);
    });
    int16_t* value = reinterpret_cast<int16_t*>(args.cache.values) + position / 2 * stride * 2 + position % 2;
    const float value_scale = encode_row(args.values + i * args.stride, head_dim, static_cast<float>(kValueCodeLimit),
                                         [value](int64_t d, IVec codes) { store_i16_apart(value + 2 * d, codes); });
    args.cache.key_scales[position] = key_scale;
    // The softmax overlooks a score that is NaN, but no value.
    args.cache.value_scales[position] = __builtin_isnan(key_scale) ? key_scale : value_scale;
  }
}

}  // namespace
}  // namespace pythia
