// Scores and weighted values of one block of queries against keys and values in float32 (KvFormat::kF32). Sums run in order of
// dimensions and of positions. Included through bodies.inl.
#pragma once

#include "kernels/attention_softmax.inl"
#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"

namespace pythia {
namespace {

class F32Attention {
 public:
  using Exp = NaturalExp;

  F32Attention(const AttentionArgs& args, int16_t* /*query_codes*/) : args_(args) {}

  void take_queries(const float* queries, int64_t /*rows*/) { queries_ = queries; }
  float factor(int64_t /*row*/) const { return args_.scale; }

  // scores [row][key] of rows [row_begin, row_end) against `keys` keys from position `begin` on, rounded up to whole lanes;
  // times factor(row) they are q k^T * scale.
  void score(int64_t row_begin, int64_t row_end, int64_t begin, int64_t keys, float* scores) const {
    const int64_t head_dim = args_.head_dim;
    const F32Weights panels{reinterpret_cast<const float*>(args_.cache.keys) + begin * head_dim, head_dim * kLanes, kLanes};
    float_tiles(queries_ + row_begin * args_.queries_stride, args_.queries_stride, row_end - row_begin, panels,
                ceil_div(keys, kLanes), 0, head_dim, {}, scores + row_begin * kAttentionChunk, kAttentionChunk,
                kAttentionChunk);
  }

  // A row's scores of `visible` keys become weights. `keys` is what the block's last row sees.
  SoftmaxState weigh(int64_t row, int64_t /*begin*/, int64_t visible, int64_t /*keys*/, float* scores) const {
    return softmax_chunk<Exp>(scores, visible, factor(row), [&](int64_t i, Vec weight) { store(scores + i, weight); });
  }

  // out [row][value_stride] = weights * values: keys that all rows of a tile see together, then each row's own rest.
  template <class Visible>
  void sum_values(int64_t row_begin, int64_t row_end, int64_t begin, Visible visible, const float* weights, float* out) const {
    const int64_t stride = round_up(args_.head_dim, kLanes), panels = stride / kLanes;
    const F32Weights values{reinterpret_cast<const float*>(args_.cache.values) + begin * stride, kLanes, stride};
    for (int64_t row = row_begin; row < row_end; row += kTileRows) {
      const int64_t rows = row_end - row < kTileRows ? row_end - row : kTileRows;
      const int64_t common = visible(row);
      float_tiles(weights + row * kAttentionChunk, kAttentionChunk, rows, values, panels, 0, common, {}, out + row * stride,
                  stride, stride);
      for (int64_t i = row + 1; i < row + rows; ++i)
        if (visible(i) > common)
          float_tiles(weights + i * kAttentionChunk, kAttentionChunk, 1, values, panels, common, visible(i), {true, nullptr},
                      out + i * stride, stride, stride);
    }
  }

 private:
  const AttentionArgs& args_;
  const float* queries_ = nullptr;
};

inline void store_f32(const StoreArgs& args) {
  auto* keys = reinterpret_cast<float*>(args.cache.keys);
  auto* values = reinterpret_cast<float*>(args.cache.values);
  const int64_t head_dim = args.head_dim, value_stride = round_up(head_dim, kLanes);
  for (int64_t done = 0; done < args.num_positions;) {
    // Positions that share a block of lanes; the block is written in memory order.
    const int64_t position = args.first_position + done, lane = position % kLanes, left = args.num_positions - done;
    const int64_t count = kLanes - lane < left ? kLanes - lane : left;
    const float* key = args.keys + done * args.stride;
    float* block = keys + (position - lane) * head_dim + lane;
    for (int64_t d = 0; d < head_dim; ++d)
      for (int64_t i = 0; i < count; ++i) block[d * kLanes + i] = key[i * args.stride + d];
    for (int64_t i = 0; i < count; ++i)
      __builtin_memcpy(values + (position + i) * value_stride, args.values + (done + i) * args.stride,
                       static_cast<size_t>(head_dim) * sizeof(float));
    done += count;
  }
}

}  // namespace
}  // namespace pythia
