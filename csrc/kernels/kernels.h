// The seam between the model and the machine: one table of functions per instruction set, over plain pointers.
//
// Every function gives the same bits in every table (docs/numerics.md says in which order each one adds). Shapes are [rows,
// cols] row-major, strides are in elements. All are noexcept, allocate nothing and trust their arguments: the model validates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/config.h"
#include "kernels/kv_head.h"
#include "quant/weight_format.h"

namespace pythia {

// Logits per chunk when rows of them are reduced: a row is cut at multiples of this, and chunks are combined in order. Whole
// register tiles of panels for every kernel.
inline constexpr int64_t kLogitChunk = 768;

// Scores of a vocabulary are searched in blocks of this many, and exponentiated in chunks. A block's groups are every 16th of
// its scores, from each of the first 16 on.
inline constexpr int64_t kScoreBlock = 128;
inline constexpr int64_t kScoreGroups = 16;
inline constexpr int64_t kSoftmaxChunk = 1024;

// Probabilities as integers: probability i is weight i / (sum of weights). Sums of integers do not depend on their order, so
// whatever is decided by a mass is the same on every machine. 2^38 keeps the sum over 2^24 tokens, the format's largest
// vocabulary, below 2^63, and moves a probability by less than 2^-38 of the largest one: float32's own resolution.
inline constexpr int kWeightBits = 38;

// Quick upper bounds of weights have fewer bits, so that the bounds of a part add up in 32.
inline constexpr int kBoundBits = 22;
inline constexpr int64_t kBoundsPart = 128;

// Bounds and estimates of weights are those of a chord of the exponential: at most this many times the weight, and next to
// nothing below it.
inline constexpr double kChordExcess = 1.0616;
inline constexpr double kChordDeficit = 1.0001;

// As many scores are estimated at a time.
inline constexpr int64_t kMaxEstimated = 1 << 16;

// So that scores at -infinity have no weight, whatever the temperature.
inline constexpr float kMinSteepness = 0x1p-120f;

// A score's probability is proportional to 2^((score - largest) * steepness), steepness = log2(e) / temperature.
struct SoftmaxScale {
  float largest = 0;    // no score is above it; finite
  float steepness = 0;  // finite, at least kMinSteepness
};

// Estimates of sums of weights, divided by 2^kWeightBits: of some scores, and of those of them that are above either of two
// bounds. For a sum S of n weights and its estimate E, times 2^kWeightBits: S <= E kChordDeficit + n, E <= S kChordExcess + n.
struct SoftmaxEstimate {
  float all = 0;
  float above_high = 0;
  float above_low = 0;
};

// A weight matrix as it lies in the file, [outputs, inputs] in panels of 16 outputs.
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  const std::byte* data = nullptr;  // 64-byte aligned
  int64_t outputs = 0;
  int64_t inputs = 0;
};

// How activations' codes lie in memory: each table has those that its dots read.
enum class CodeLayout {
  kInt8,        // in order
  kInt16Pairs,  // of each four inputs 0, 2, 1, 3
};
constexpr int64_t code_size_bytes(CodeLayout layout) { return layout == CodeLayout::kInt8 ? 1 : 2; }

// Where the dots of groups begin; see dot_base.h.
inline constexpr int32_t kDotBase = 0x4B400000;

// Activation rows in groups of kQuantGroup inputs (quantize_row makes them): codes of int8's range, those of the last, partial
// group padded with zeros; then the group's scale, a float; then its offset, an int32: kDotBase - 128 * the sum of the codes.
// What a dot needs of a row is at one address.
struct QuantizedRows {
  std::byte* groups = nullptr;  // [rows, stride_bytes], 4-byte aligned
  int64_t stride_bytes = 0;
};
constexpr int64_t scale_offset_bytes(CodeLayout layout) { return kQuantGroup * code_size_bytes(layout); }
constexpr int64_t quantized_group_bytes(CodeLayout layout) { return scale_offset_bytes(layout) + 8; }

struct MatmulArgs {
  PackedMatrix weights;
  int64_t panel_begin = 0;  // outputs [16 panel_begin, min(16 panel_end, outputs))
  int64_t panel_end = 0;
  int64_t num_rows = 0;
  const float* x = nullptr;  // [num_rows, inputs], for f32, f16 and bf16 weights
  int64_t x_stride = 0;
  QuantizedRows quantized_x;    // the same rows, for q8 and q4 weights
  const float* bias = nullptr;  // [outputs] or null
  float* y = nullptr;           // [num_rows, outputs]; columns outside the panels are not touched
  int64_t y_stride = 0;
};

// Keys and values of consecutive positions of one head, on their way into the cache.
struct StoreArgs {
  const float* keys = nullptr;    // [num_positions, head_dim], rotated
  const float* values = nullptr;  // [num_positions, head_dim]
  int64_t stride = 0;             // of both
  int64_t num_positions = 0;
  int64_t first_position = 0;
  int64_t head_dim = 0;
  KvHead cache;
};

// Queries of one head against that head's key-value cache.
struct AttentionArgs {
  const float* queries = nullptr;  // [num_queries, head_dim], rotated
  int64_t queries_stride = 0;
  int64_t num_queries = 0;
  int64_t first_position = 0;  // query i attends to positions 0 .. first_position + i
  KvHead cache;
  int64_t head_dim = 0;
  float scale = 0;       // 1 / sqrt(head_dim)
  float* out = nullptr;  // [num_queries, head_dim]
  int64_t out_stride = 0;
  float* scratch = nullptr;  // attention_scratch_floats(head_dim) (attention_scratch.h), 64-byte aligned
};

// What log-softmax, its entropy and varentropy, ranks and arg-max need of one chunk of a row's logits.
struct LogitSummary {
  float largest = 0;    // the largest logit
  float reference = 0;  // of the sums
  float sum = 0;        // of exp(logit - reference)
  float weighted = 0;   // of exp(logit - reference) * (reference - logit)
  float squared = 0;    // of exp(logit - reference) * (reference - logit)^2
  int32_t above = 0;    // how many are greater than a bound
};

// Logs of the sums of exp(logit) of two rows of logits, each in two floats that add up to it, and their difference.
struct LogTotals {
  float p = 0, p_rest = 0;
  float q = 0, q_rest = 0;
  float p_minus_q = 0;  // rounded once
};

// The bound is the reference, unless the largest logit is above it by more than this: then that is.
inline constexpr float kMostAboveReference = 8.0f;

struct KernelTable {
  const char* isa;

  // y[r][o] = sum_k x[r][k] w[o][k] (+ bias[o]): k in sequence, one fused multiply-add each (float formats), or one per
  // group of exact integer dots (q8, q4).
  void (*matmul)(const MatmulArgs& args) noexcept;

  // Positions of a sequence follow each other: those after the stored ones hold nothing that is still needed.
  void (*store_keys_values)(const StoreArgs& args) noexcept;

  // out = softmax(scale q k^T) v over the positions each query may see.
  void (*attention)(const AttentionArgs& args) noexcept;

  // The scores that attention() makes of the same arguments: out [num_queries, first_position + num_queries] = scale q k^T,
  // where a query may see the position. The rest is not touched.
  void (*attention_scores)(const AttentionArgs& args) noexcept;

  // The summary of n >= 1 logits, finite or -infinity, n < 2^24; the sums run over 16 virtual lanes (logit i in lane i mod 16),
  // folded by the fixed tree.
  LogitSummary (*summarize_logits)(const float* logits, int64_t n, float bound) noexcept;

  // The sum of P log(P / Q) + Q - P, which no term is below 0 of, over n tokens; P and Q are exp(logit - log total) of theirs.
  // Logits are finite or -infinity, totals finite. Token i in lane i mod 16, folded.
  float (*divergence)(const float* p_logits, const float* q_logits, int64_t n, const LogTotals& totals) noexcept;

  // The index of the first of n numbers that is greater than `bound`; NaN is not. There is one.
  int64_t (*first_above)(const float* x, int64_t n, float bound) noexcept;

  // How many of n < 2^24 numbers are greater than `bound`; NaN is not.
  int32_t (*count_above)(const float* x, int64_t n, float bound) noexcept;

  // y = (x - mean) / sqrt(var + eps) * weight + bias over n elements (torch.nn.LayerNorm). y may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y) noexcept;

  // x = act(x) in place.
  void (*activation)(Activation act, float* x, int64_t n) noexcept;

  // Rotates the first 2*half elements of a head in half-split form (transformers apply_rotary_pos_emb):
  // x[i], x[i+half] = x[i] cos[i] - x[i+half] sin[i], x[i+half] cos[i] + x[i] sin[i].
  void (*rotary)(float* x, const float* cos, const float* sin, int64_t half) noexcept;

  // y = a + b.
  void (*add)(const float* a, const float* b, int64_t n, float* y) noexcept;

  // Row of f32, f16 or bf16 to float, exactly.
  void (*to_float)(WeightFormat format, const void* source, int64_t n, float* y) noexcept;

  // One row of QuantizedRows: per group, code = round_half_even(x * (127 / absmax)), scale = absmax / 127. Codes have
  // code_layout.
  void (*quantize_row)(const float* x, int64_t n, std::byte* groups) noexcept;
  CodeLayout code_layout;

  // The largest of each block of kScoreBlock of n numbers, ignoring NaN, into maxima [n / kScoreBlock, rounded up]; -infinity
  // where nothing is left. The same of each block's groups into group_maxima [n / kScoreBlock, rounded up; kScoreGroups],
  // unless that is null.
  void (*block_maxima)(const float* x, int64_t n, float* maxima, float* group_maxima) noexcept;

  // The indices, ascending, and the values of those of n scores that are above `bound`; how many there are. `maxima` are the
  // scores' block maxima. ids and found_scores have room for all.
  int64_t (*collect_above)(const float* scores, int64_t n, const float* maxima, float bound, int32_t* ids,
                           float* found_scores) noexcept;

  // exps = 2^((score - largest) * steepness), within 2 units in the last place where the exponent is above -40; from there
  // down, and for NaN, 2^-40. exps may be scores.
  void (*softmax_exps)(const float* scores, int64_t n, SoftmaxScale scale, float* exps) noexcept;

  // For each kSoftmaxChunk scores the sum of their weights, round_half_even(2^kWeightBits * softmax_exps). totals [n /
  // kSoftmaxChunk, rounded up].
  void (*softmax_totals)(const float* scores, int64_t n, SoftmaxScale scale, int64_t* totals) noexcept;

  // The same, and of each chunk the sum of softmax_exps * ((largest - score) * steepness) of the scores with weights: score j
  // in lane j mod 16, folded.
  void (*softmax_moments)(const float* scores, int64_t n, SoftmaxScale scale, int64_t* totals, float* moments) noexcept;

  // Estimates for n <= kMaxEstimated scores.
  SoftmaxEstimate (*softmax_estimate)(const float* scores, int64_t n, SoftmaxScale scale, float high, float low) noexcept;

  // Bounds of the weights of those of n scores that are above `bound`, 0 for the others, and their sums for every kBoundsPart:
  // a weight is at most 2^(kWeightBits - kBoundBits) times its bound, times 1 + 2^-16; a bound is at most kChordExcess times
  // that, and 2.
  void (*softmax_bounds)(const float* scores, int64_t n, SoftmaxScale scale, float bound, int32_t* bounds,
                         int32_t* totals) noexcept;

  // The sum of the weights of those of n <= kSoftmaxChunk scores that are above `bound`; `maxima` as in collect_above.
  int64_t (*softmax_total_above)(const float* scores, int64_t n, SoftmaxScale scale, const float* maxima, float bound) noexcept;

  // Elementwise functions: y = f(x); exp2 and tanh stand here for tests of their error and bits.
  void (*exp)(const float* x, int64_t n, float* y) noexcept;
  void (*exp2)(const float* x, int64_t n, float* y) noexcept;  // of x in [-126, 1], to which others are clamped
  void (*log)(const float* x, int64_t n, float* y) noexcept;
  void (*tanh)(const float* x, int64_t n, float* y) noexcept;

  // The machine's limits under this instruction set, for `pythia-cpu bench`. The first two do multiply-adds on as many
  // registers as a matmul tile has and return the operations done, two a multiply-add; the last reads memory (64-byte aligned,
  // a multiple of 512 bytes).
  int64_t (*peak_fma)(int64_t rounds) noexcept;
  int64_t (*peak_int8)(int64_t rounds) noexcept;
  void (*peak_read)(const void* data, int64_t size_bytes) noexcept;
};

}  // namespace pythia
