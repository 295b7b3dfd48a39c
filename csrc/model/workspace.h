// The buffers of a forward pass, allocated once for the largest pass and used again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/aligned_buffer.h"
#include "format/config.h"
#include "kernels/attention_scratch.h"
#include "kernels/kernels.h"
#include "model/scoring.h"
#include "model/task_buffers.h"

namespace pythia {

// Rows of activations [rows, columns]: floats, and their codes for quantized weights.
class Activations {
 public:
  // `group_bytes` for the codes of each group; 0: floats only.
  void reserve(int64_t rows, int64_t columns, int64_t group_bytes) {
    stride_ = row_stride_floats(columns);
    group_bytes_ = group_bytes;
    groups_stride_bytes_ = odd_lines(ceil_div(columns, kQuantGroup) * group_bytes);
    floats_.reserve(rows * stride_);
    if (group_bytes > 0) groups_.reserve(rows * groups_stride_bytes_);
  }

  float* row(int64_t r) const { return floats_.data() + r * stride_; }
  FloatRows rows() const { return {floats_.data(), stride_}; }
  int64_t stride() const { return stride_; }

  QuantizedRows quantized(int64_t r) const { return {groups_.data() + r * groups_stride_bytes_, groups_stride_bytes_}; }

  // Makes the codes of columns [begin, end) of row r from these floats, the row's or others; begin is a multiple of
  // kQuantGroup, end too or the last column.
  void quantize(const KernelTable& kernels, int64_t r, int64_t begin, int64_t end, const float* from) const {
    kernels.quantize_row(from, end - begin, quantized(r).groups + begin / kQuantGroup * group_bytes_);
  }

 private:
  int64_t stride_ = 0, group_bytes_ = 0, groups_stride_bytes_ = 0;
  AlignedBuffer<float> floats_;
  AlignedBuffer<std::byte> groups_;
};

// Up to this many rows a pass is bound by reading weights, and a wait of threads for each other costs more than the little work
// between matmuls: every thread normalizes all rows for itself, one embeds them, and the last layer is not cut to the rows with
// logits.
inline constexpr int64_t kFewRows = 4;

// What all threads see. Of what a quantized matmul reads, a pass makes only the codes, and leaves the floats as they are.
struct Workspace {
  Activations residual;          // [rows, hidden_size], the residual stream
  Activations attention_input;   // [rows, hidden_size], after input_layernorm
  Activations mlp_input;         // [rows, hidden_size], after post_attention_layernorm
  Activations queries;           // [rows, hidden_size], rotated, heads side by side
  Activations attention;         // [rows, hidden_size], heads side by side
  Activations intermediate;      // [rows, intermediate_size]
  Activations head_input;        // [rows with logits, hidden_size], after final_layer_norm
  AlignedBuffer<float> scratch;  // attention's, one part a thread
  int64_t scratch_floats = 0;
  TaskBuffers tasks;      // of ForwardPass
  ScoreWorkspace scores;  // of passes that score or choose
  int64_t most_rows = 0;  // there is room for, with as many threads
  int most_threads = 0;

  // Grows to `rows` rows for `threads` threads. Few rows have their normalized forms once a thread. `group_bytes` as above.
  // Writes nothing if there is room, so that other threads' caches keep what they know of it.
  void reserve(const Config& config, int64_t rows, int threads, int64_t group_bytes) {
    if (rows <= most_rows && threads <= most_threads) return;
    rows = std::max(rows, std::exchange(most_rows, 0));  // 0: where memory ends, nothing is known to have room
    threads = std::max(threads, most_threads);
    const int64_t hidden = config.hidden_size;
    for (Activations* buffer : {&residual, &queries}) buffer->reserve(rows, hidden, 0);
    const int64_t normalized_rows = std::max(rows, threads * std::min(rows, kFewRows));
    for (Activations* buffer : {&attention_input, &mlp_input, &head_input})
      buffer->reserve(normalized_rows, hidden, group_bytes);
    attention.reserve(rows, hidden, group_bytes);
    intermediate.reserve(rows, config.intermediate_size, group_bytes);
    scratch_floats = attention_scratch_floats(config.head_dim());
    scratch.reserve(scratch_floats * threads);
    most_rows = rows;
    most_threads = threads;
  }
};

}  // namespace pythia
