// A forward pass that can be looked into and changed on its way, activation by activation.
//
// Slower than ForwardPass and in no part of it: layer by layer over all tokens, with the same kernels in the same order of
// sums, so that the logits have the same bits unless an activation is changed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/thread_pool.h"
#include "model/kv_cache.h"
#include "model/rotary.h"
#include "model/sequence_slice.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace pythia {

// Sees activations at the points, and under the names, of TransformerLens's hooks (HookedTransformer without weight
// processing).
class Inspector {
 public:
  virtual ~Inspector() = default;

  // Whether visit() is to be called for this name. What nobody wants is not gathered, and attention's scores and pattern are
  // not even computed. May throw, which ends the pass.
  virtual bool wants(const std::string& name) = 0;

  // For each sequence in turn. `values` is row-major of this shape and may be changed; the rest of the pass goes on with what
  // is left there. Returns whether it was changed. May throw, which ends the pass.
  virtual bool visit(int64_t sequence, const std::string& name, std::span<const int64_t> shape, std::span<float> values) = 0;

  // A hook_resid_pre or hook_resid_post that visit() replaces whatever it was, and before which nothing is wanted: a pass
  // without caches begins there, with zeros to visit. Empty: it begins with the tokens.
  virtual std::string replaced_residual() { return {}; }
};

// The names of all activations of a model, in the order of the pass. Shapes, with n tokens, and as many keys or more, where the
// sequence has begun before:
//   [n, hidden_size]             hook_embed, *.hook_resid_*, *.hook_attn_out, *.hook_mlp_out, *.hook_normalized
//   [n, 1]                       *.hook_scale, a LayerNorm's sqrt(variance + eps)
//   [n, heads, head_dim]         *.attn.hook_q, hook_k, hook_v, hook_rot_q, hook_rot_k, hook_z
//   [heads, n queries, keys]     *.attn.hook_attn_scores (scaled; -infinity where masked), *.attn.hook_pattern
//   [n, intermediate_size]       *.mlp.hook_pre, *.mlp.hook_post
std::vector<std::string> hook_names(const Config& config);

// Beside them: the logits that are asked for, [num_logits, vocab_size], at the end of the pass.
inline constexpr const char* kLogitsName = "logits";

class InspectedPass {
 public:
  // Runs a job on at most `max_threads` of the model's threads (0: all) and returns when it is done.
  using RunJob = std::function<void(const std::function<void(Team&)>& job, int max_threads)>;

  // All references outlive the pass. `quantized`: some weights are q8 or q4. Tokens follow those of their cache, which gets
  // their keys and values too, beyond its length; with null they are the whole sequence. Throws std::bad_alloc.
  InspectedPass(const Config& config, const ModelWeights& weights, const KernelTable& kernels, const RotaryTable& rotary,
                bool quantized, std::span<const SequenceSlice> slices, RunJob run_job, Inspector& inspector);

  // Logits [sum num_logits, vocab_size] of all slices. With none of them a pass without a cache ends after the last layer with
  // an activation that is wanted, and begins where the inspector has it begin. The inspector is called on the calling thread,
  // between jobs. Throws what it throws, and std::bad_alloc. Where it changes scores or a pattern, values of earlier tokens are
  // weighed as the cache keeps them.
  void run(float* logits);

  // The end of a pass, for any residual stream [rows, hidden_size]: final LayerNorm and head. Throws as run.
  void unembed(const float* residuals, float* logits);

 private:
  // A slice, its rows, and the cache that it runs with.
  struct Sequence {
    SequenceSlice slice;
    int64_t index, first_row, num_past;
    KvCache* cache;
    int64_t num_tokens() const { return static_cast<int64_t>(slice.tokens.size()); }
    int64_t num_keys() const { return num_past + num_tokens(); }
  };
  // Columns of `groups` groups in rows of memory, and the shape [tokens, ...] under which an inspector sees them.
  struct View {
    float* data;
    int64_t row_stride, groups, group_stride, columns;
    std::vector<int64_t> shape;
  };
  View rows_view(const Activations& rows, int64_t columns) const;
  View heads_view(float* data, int64_t row_stride, int64_t head_stride) const;
  View part_view(int64_t part) const;  // of query_key_value: 0 queries, 1 keys, 2 values
  void show(const std::string& name, const View& view);

  // Attention and matmuls run on all threads. What is left is a small part of a pass, and runs on one.
  void for_each(int64_t num_tasks, int64_t multiply_adds, const std::function<void(int64_t)>& task);
  void for_each_row(const std::function<void(int64_t)>& body);
  void embed();
  int64_t num_layers_wanted();  // 0..num_hidden_layers + 1, the last being the final LayerNorm
  void layer(int64_t index);
  void normalize(const std::string& prefix, const LayerNormWeights& norm, const Activations& output);
  void show_scales(const std::string& name, const LayerNormWeights& norm, const Activations& output);
  void normalize_by(std::span<const float> scales, std::span<const float> before, int64_t first_row,
                    const LayerNormWeights& norm, const Activations& output);
  void mlp(const std::string& prefix, const LayerWeights& layer);
  void head(float* logits);
  int64_t begin();
  void show_logits(float* logits);
  void add(const Activations& update, const Activations& to);
  void linear(const LinearWeights& weights, const Activations& input, float* output, int64_t output_stride);
  void linear(const LinearWeights& weights, const Activations& input, int64_t first_row, int64_t num_rows, float* output,
              int64_t output_stride);

  // inspection_attention.cc
  void attention(const std::string& prefix, const LayerWeights& layer);
  void rotate();
  void store_keys_values();
  void attend();
  bool inspect_scores(const std::string& prefix, const Sequence& sequence);
  bool show_rows(const std::string& name, const Sequence& sequence);
  void compute_scores(const Sequence& sequence, int64_t head, float* scores);
  std::span<float> pattern_row(const Sequence& sequence, int64_t row) const;  // of head row / n, query row % n
  void weigh_values(const Sequence& sequence);
  AttentionArgs attention_args(const Sequence& sequence, int64_t head);
  int64_t attention_work(const Sequence& sequence) const;  // multiply-adds of its scores
  KvHead kept(const Sequence& sequence, int64_t head) const;
  void for_each_head(const std::function<void(const Sequence&, int64_t)>& task);

  const Config& config_;
  const ModelWeights& weights_;
  const KernelTable& kernels_;
  const RotaryTable& rotary_;
  const int64_t num_heads_, head_dim_;
  RunJob run_job_;
  Inspector& inspector_;
  std::vector<std::unique_ptr<KvCache>> own_caches_;  // of one layer, used again for each, where there is no other
  std::vector<Sequence> sequences_;
  int64_t num_rows_ = 0;
  Workspace workspace_;           // scratch: one part a head
  Activations query_key_value_;   // [rows, 3 hidden_size]
  Activations attention_output_;  // [rows, hidden_size], after attention.dense
  Activations mlp_output_;        // [rows, hidden_size], after dense_4h_to_h
  int64_t layer_ = 0;
  AlignedBuffer<float> staging_;  // an activation being shown
  // Of one sequence of n tokens:
  AlignedBuffer<float> pattern_;         // [heads, n, keys], where it is wanted
  AlignedBuffer<float> values_;          // [heads], each packed as a matrix [head_dim, keys]
  std::vector<uint64_t> row_checksums_;  // [heads, n], of the pattern before it is shown
  std::vector<uint8_t> is_changed_;      // [heads, n]
};

}  // namespace pythia
