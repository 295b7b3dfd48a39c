// Causal attention of one head, in chunks of kAttentionChunk keys. Each chunk has its own maximum, sum and weighted values, and
// chunks are merged in order: the bits depend on a query's position only, never on how queries were grouped into calls.
// The score matrix exists for kQueryBlock rows of one chunk at a time. Included through bodies.inl.
#pragma once

#include "kernels/attention_f32.inl"
#include "kernels/attention_i16.inl"
#include "kernels/attention_scratch.h"
#include "kernels/attention_softmax.inl"
#include "kernels/kernels.h"

namespace pythia {
namespace {

// The rows of a block of queries from `query` on that see keys of the chunk from position `begin` on.
struct ChunkView {
  int64_t first_position, begin, rows;

  // How many keys of the chunk a row sees.
  int64_t visible(int64_t row) const {
    const int64_t n = first_position + row + 1 - begin;
    return n < kAttentionChunk ? n : kAttentionChunk;
  }
  int64_t first_row() const { return begin > first_position ? begin - first_position : 0; }
  int64_t keys() const { return visible(rows - 1); }
};

// Calls each(query, view) for every block of queries and every chunk that it sees, and done(query, rows) after a block.
template <class Kv, class Each, class Done>
inline void for_chunks(const AttentionArgs& args, Kv& kv, Each each, Done done) {
  for (int64_t query = 0; query < args.num_queries; query += kQueryBlock) {
    const int64_t left = args.num_queries - query, rows = left < kQueryBlock ? left : kQueryBlock;
    kv.take_queries(args.queries + query * args.queries_stride, rows);
    const int64_t first = args.first_position + query;
    for (int64_t begin = 0; begin < first + rows; begin += kAttentionChunk) each(query, ChunkView{first, begin, rows});
    done(query, rows);
  }
}

template <class Kv>
inline void attend(const AttentionArgs& args) {
  const int64_t head_dim = args.head_dim, value_stride = round_up(head_dim, kLanes);
  const AttentionScratch parts{value_stride};
  float *scores = args.scratch + parts.scores(), *merged = args.scratch + parts.merged();
  float* chunk_out = args.scratch + parts.chunk();
  SoftmaxState states[kQueryBlock], chunk[kQueryBlock];
  Kv kv(args, reinterpret_cast<int16_t*>(args.scratch + parts.codes()));

  const auto each = [&](int64_t /*query*/, const ChunkView& view) {
    const int64_t first_row = view.first_row(), rows = view.rows;
    kv.score(first_row, rows, view.begin, view.keys(), scores);
    for (int64_t r = first_row; r < rows; ++r)
      chunk[r] = kv.weigh(r, view.begin, view.visible(r), view.keys(), scores + r * kAttentionChunk);
    float* values = view.begin == 0 ? merged : chunk_out;
    kv.sum_values(first_row, rows, view.begin, [&](int64_t r) { return view.visible(r); }, scores, values);
    for (int64_t r = first_row; r < rows; ++r) {
      if (view.begin == 0)
        states[r] = chunk[r];
      else
        merge_chunk<typename Kv::Exp>(states[r], merged + r * value_stride, chunk[r], chunk_out + r * value_stride,
                                      value_stride);
    }
  };
  for_chunks(args, kv, each, [&](int64_t query, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const Vec total = set1(states[r].sum);
      for (int64_t d = 0; d < head_dim; d += kLanes)
        store_n(args.out + (query + r) * args.out_stride + d, load(merged + r * value_stride + d) / total, head_dim - d);
    }
  });
}

template <class Kv>
inline void scores_of(const AttentionArgs& args) {
  const AttentionScratch parts{round_up(args.head_dim, kLanes)};
  float* scores = args.scratch + parts.scores();
  Kv kv(args, reinterpret_cast<int16_t*>(args.scratch + parts.codes()));
  const auto each = [&](int64_t query, const ChunkView& view) {
    kv.score(view.first_row(), view.rows, view.begin, view.keys(), scores);
    for (int64_t r = view.first_row(); r < view.rows; ++r) {
      float* out = args.out + (query + r) * args.out_stride + view.begin;
      for (int64_t i = 0; i < view.visible(r); i += kLanes)
        store_n(out + i, load(scores + r * kAttentionChunk + i) * set1(kv.factor(r)), view.visible(r) - i);
    }
  };
  for_chunks(args, kv, each, [](int64_t, int64_t) {});
}

void attention_kernel(const AttentionArgs& args) noexcept {
  switch (args.cache.format) {
    case KvFormat::kF32: return attend<F32Attention>(args);
    case KvFormat::kI16: return attend<I16Attention>(args);
  }
}

void attention_scores_kernel(const AttentionArgs& args) noexcept {
  switch (args.cache.format) {
    case KvFormat::kF32: return scores_of<F32Attention>(args);
    case KvFormat::kI16: return scores_of<I16Attention>(args);
  }
}

void store_keys_values_kernel(const StoreArgs& args) noexcept {
  switch (args.cache.format) {
    case KvFormat::kF32: return store_f32(args);
    case KvFormat::kI16: return store_i16_cache(args);
  }
}

}  // namespace
}  // namespace pythia
