// Causal attention of one head, in chunks of kAttentionChunk keys. Each chunk has its own maximum, sum and weighted values, and
// chunks are merged in order: the bits depend on a query's position only, never on how queries were grouped into calls.
// The score matrix exists for kQueryBlock rows of one chunk at a time. Included through bodies.inl.
#pragma once

#include "kernels/attention_scratch.h"
#include "kernels/elementwise.inl"
#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"

namespace pythia {
namespace {

// One query's state over the chunks merged so far: largest score, sum of exp(score - largest).
struct SoftmaxState {
  float largest;
  float sum;
};

// Turns `n` raw scores into exp(scale * score - largest) in place, largest being the rounded product scale * (largest score);
// sums run over 16 virtual lanes. Weights below 2^-126 are 2^-126.
inline SoftmaxState softmax_chunk(float* scores, int64_t n, float scale) {
  const Vec lowest = from_bits(set1_i(-8388608));  // -infinity
  const int64_t whole = n / kLanes * kLanes;
  const Mask rest = first_lanes(n - whole);
  Vec top = lowest;
  for (int64_t i = 0; i < whole; i += kLanes) top = max(load(scores + i), top);
  if (whole < n) top = max(select(rest, load(scores + whole), lowest), top);

  const float largest = reduce_max(top) * scale;
  const Vec factor = set1(scale), shift = set1(-largest);
  Vec sum = zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec weight = exp_clamped(fma(load(scores + i), factor, shift));
    store(scores + i, weight);
    sum = sum + weight;
  }
  if (whole < n) {
    const Vec weight = select(rest, exp_clamped(fma(load(scores + whole), factor, shift)), zero());
    store(scores + whole, weight);
    sum = sum + weight;
  }
  return {largest, reduce_add(sum)};
}

// Adds a chunk (its state and weighted values) to what was merged before.
inline void merge_chunk(SoftmaxState& state, float* values, SoftmaxState chunk, const float* chunk_values,
                        int64_t value_stride) {
  const float largest = chunk.largest > state.largest ? chunk.largest : state.largest;
  float factors[kLanes] = {state.largest - largest, chunk.largest - largest};
  store(factors, exp_clamped(load(factors)));
  const Vec keep = set1(factors[0]), add = set1(factors[1]);
  for (int64_t d = 0; d < value_stride; d += kLanes)
    store(values + d, fma(load(values + d), keep, load(chunk_values + d) * add));
  float sum[kLanes] = {state.sum}, chunk_sum[kLanes] = {chunk.sum};
  store(sum, fma(load(sum), keep, load(chunk_sum) * add));
  state = {largest, sum[0]};
}

void attention_kernel(const AttentionArgs& args) noexcept {
  const int64_t head_dim = args.head_dim, value_stride = round_up(head_dim, kLanes);
  float* scores = args.scratch;                            // [kQueryBlock][kAttentionChunk]
  float* merged = scores + kQueryBlock * kAttentionChunk;  // [kQueryBlock][value_stride]
  float* chunk_out = merged + kQueryBlock * value_stride;  // [kQueryBlock][value_stride]
  SoftmaxState states[kQueryBlock];

  for (int64_t q = 0; q < args.num_queries; q += kQueryBlock) {
    const int64_t rows = args.num_queries - q < kQueryBlock ? args.num_queries - q : kQueryBlock;
    const float* queries = args.queries + q * args.queries_stride;
    const int64_t last = args.first_position + q + rows - 1;  // the last row's own position
    for (int64_t begin = 0; begin <= last; begin += kAttentionChunk) {
      const int64_t keys = last + 1 - begin < kAttentionChunk ? last + 1 - begin : kAttentionChunk;
      // Row r sees `visible(r)` keys of this chunk; rows before `first_row` see none.
      const auto visible = [&](int64_t r) {
        const int64_t n = args.first_position + q + r + 1 - begin;
        return n < kAttentionChunk ? n : kAttentionChunk;
      };
      const int64_t hidden = begin - args.first_position - q;
      const int64_t first_row = hidden > 0 ? hidden : 0;

      const F32Weights key_panels{args.keys + begin * head_dim, head_dim * kLanes, kLanes};
      float_tiles(queries + first_row * args.queries_stride, args.queries_stride, rows - first_row, key_panels,
                  ceil_div(keys, kLanes), 0, head_dim, {}, scores + first_row * kAttentionChunk, kAttentionChunk,
                  kAttentionChunk);

      SoftmaxState chunk[kQueryBlock];
      for (int64_t r = first_row; r < rows; ++r) chunk[r] = softmax_chunk(scores + r * kAttentionChunk, visible(r), args.scale);

      // Weighted values: keys that all rows of a tile see together, then each row's own rest.
      const F32Weights value_panels{args.values + begin * value_stride, kLanes, value_stride};
      for (int64_t r = first_row; r < rows; r += kTileRows) {
        const int64_t tile = rows - r < kTileRows ? rows - r : kTileRows;
        const int64_t common = visible(r);
        float_tiles(scores + r * kAttentionChunk, kAttentionChunk, tile, value_panels, value_stride / kLanes, 0, common, {},
                    chunk_out + r * value_stride, value_stride, value_stride);
        for (int64_t i = r + 1; i < r + tile; ++i)
          if (visible(i) > common)
            float_tiles(scores + i * kAttentionChunk, kAttentionChunk, 1, value_panels, value_stride / kLanes, common,
                        visible(i), {true, nullptr}, chunk_out + i * value_stride, value_stride, value_stride);
      }

      for (int64_t r = first_row; r < rows; ++r) {
        if (begin == 0) {
          states[r] = chunk[r];
          for (int64_t d = 0; d < value_stride; d += kLanes)
            store(merged + r * value_stride + d, load(chunk_out + r * value_stride + d));
        } else {
          merge_chunk(states[r], merged + r * value_stride, chunk[r], chunk_out + r * value_stride, value_stride);
        }
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const Vec total = set1(states[r].sum);
      for (int64_t d = 0; d < head_dim; d += kLanes)
        store_n(args.out + (q + r) * args.out_stride + d, load(merged + r * value_stride + d) / total, head_dim - d);
    }
  }
}

}  // namespace
}  // namespace pythia
