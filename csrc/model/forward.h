// The GPT-NeoX forward pass (Black et al. 2022, arXiv:2204.06745; transformers modeling_gpt_neox.py) over rows of tokens that
// may belong to several sequences. Run by all threads of a team; the phases are separated by barriers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/thread_pool.h"
#include "kernels/score_maxima.h"
#include "model/kv_cache.h"
#include "model/rotary.h"
#include "model/scoring.h"
#include "model/tiling.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace pythia {

// Consecutive tokens of one sequence: rows [first_row, first_row + tokens.size()) of the pass.
struct Segment {
  KvCache* cache = nullptr;
  std::span<const int32_t> tokens;
  int64_t first_position = 0;
  int64_t first_row = 0;
  int64_t num_logits = 0;  // for its last rows

  int64_t num_rows() const { return static_cast<int64_t>(tokens.size()); }
  int64_t end_row() const { return first_row + num_rows(); }
};

// The rows of `segments` that have logits, one after another from row 0 on: what the last layer is asked for.
void select_rows_with_logits(std::span<const Segment> segments, std::vector<Segment>& selected);

// What the head makes of the rows that have logits, segment after segment: the logits, how likely given tokens are, or
// the most likely tokens.
struct HeadOutput {
  float* logits = nullptr;           // [rows, vocab_size]
  ScoreMaxima maxima{};              // of the logits, where they are asked for
  const int32_t* targets = nullptr;  // [rows], what follows each row's token
  TokenScore* scores = nullptr;      // [rows], of the targets
  GreedyChoice* choices = nullptr;   // [rows]

  // The output of the rows from `rows` on.
  HeadOutput rows_from(int64_t rows, int64_t vocab_size) const {
    if (logits) return {.logits = logits + rows * vocab_size, .maxima = maxima.from_row(rows, vocab_size)};
    if (choices) return {.choices = choices + rows};
    return {.targets = targets + rows, .scores = scores + rows};
  }
};

class ForwardPass {
 public:
  // Of a head's queries, keys and values, those that a layer makes. Where they do not fill whole panels, all are made: the same
  // bits once more.
  enum class HeadParts { kAll, kQueries, kKeysValues };

  // All references outlive the pass. `workspace` has room for all rows of `segments`, and for scores where they are asked for.
  // Passes that take the head's weights in turns from the beginning and from the end find some of them in the threads' caches.
  ForwardPass(const Config& config, const ModelWeights& weights, const KernelTable& kernels, const RotaryTable& rotary,
              Workspace& workspace, std::span<const Segment> segments, const HeadOutput& output, TaskOrder head_order);

  // What one thread does before the others begin: it is less work than a meeting of theirs.
  void begin() const noexcept;

  // The whole pass. Called once by every thread of the team.
  void run(Team& team) const noexcept;

  // The same with less work in the last layer: keys and values of all rows, and the rest by `last`, a pass over the rows with
  // logits (select_rows_with_logits) that has the same workspace.
  void run(Team& team, const ForwardPass& last) const noexcept;

  // What one thread does after the others: of the pass that had the head.
  void finish(int threads) const noexcept;

 private:
  bool embeds_at_once() const noexcept { return num_rows_ <= kFewRows; }
  void embed(Team& team) const noexcept;
  void embed_rows(int64_t begin, int64_t end) const noexcept;

  // Calls body(begin, end) for all rows, a few at a time; as with matmuls, a thread's tasks are of one block of rows, which
  // stays in its cache.
  template <class Body>
  void for_each_rows(Team& team, const Body& body) const noexcept;

  void layers(Team& team, int64_t begin, int64_t end, HeadParts parts) const noexcept;
  void parallel_layer(Team& team, int64_t index, HeadParts parts) const noexcept;
  void sequential_layer(Team& team, int64_t index, HeadParts parts) const noexcept;
  void store_keys_values(Team& team, int64_t index) const noexcept;
  void gather_residual(Team& team, const ForwardPass& last) const noexcept;
  void head(Team& team) const noexcept;
  void logits_and_maxima(Team& team, int64_t input_row) const noexcept;
  void choose(Team& team, int64_t input_row) const noexcept;
  void score(Team& team, int64_t input_row) const noexcept;
  void target_logit(int64_t row, int64_t input_row) const noexcept;
  void summarize_chunk(int64_t chunk, int64_t row_begin, int64_t input_row, int rank) const noexcept;

  // Computes the head's outputs in chunks of kLogitChunk and calls body(row, first, n, logits) for each row of one: the logits
  // [first, first + n) of the row, which go when the body returns, or stay in `all` [rows with logits, vocab_size] if that is
  // not null.
  template <class Body>
  void for_each_chunk(Team& team, int64_t input_row, float* all, const Body& body) const noexcept;

  // A LayerNorm of residual rows into `output`, ready for `next`.
  struct Normalization {
    const LayerNormWeights& norm;
    const LinearWeights& next;
    const Activations& output;
  };
  void normalize(int64_t row, int64_t output_row, const Normalization& normalization, int rank) const noexcept;

  // Normalizes all rows and returns the first output row that this thread reads.
  int64_t normalize_all(Team& team, std::span<const Normalization> normalizations) const noexcept;

  // Steps of a layer. A step is a number of tasks and a function of one, so that two can share a phase. `input_row` is the
  // first row of the normalized input, `rank` the thread's, in whose TaskBuffers a task leaves what other tasks do not read.

  // query_key_value for a group of heads and a block of rows, rotated; keys and values go to the caches. Where `attends`, their
  // attention follows at once: what it reads is in this thread's cache, and the threads need not meet.
  int64_t num_project_tasks(int threads) const noexcept;
  void project_heads(const Team& team, int64_t task, int64_t index, int64_t input_row, HeadParts parts,
                     bool attends) const noexcept;

  // Whether it may: no row sees keys that another task stores.
  bool projection_attends(int threads, HeadParts parts) const noexcept;

  // Otherwise attention is a phase of its own: a block of queries of one segment, for a group of heads.
  int64_t num_attend_tasks() const noexcept;
  void attend(int64_t task, int64_t index, int rank) const noexcept;

  // Heads whose query_key_value outputs fill whole panels and whose attention fills whole quantization groups (or all heads).
  struct Heads {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };
  int64_t num_head_groups() const noexcept { return ceil_div(config_.num_attention_heads, heads_per_task_); }
  Heads head_group(int64_t group) const noexcept;

  // Parts of these tasks, for rows [row_begin, row_end) of a pass or of one segment: their outputs [head][q, k, v][head_dim],
  // and their queries, whose next head is head_stride floats on.
  void project(Heads heads, int64_t row_begin, int64_t row_end, int64_t index, int64_t input_row, HeadParts parts,
               const FloatRows& outputs) const noexcept;
  void rotate_and_store(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index, HeadParts parts,
                        const FloatRows& outputs) const noexcept;
  void attend_rows(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index, int rank,
                   const FloatRows& queries, int64_t head_stride) const noexcept;

  void expand(const Tile& tile, const LayerWeights& layer, int64_t input_row, int rank) const noexcept;
  void contract(const Tile& tile, const LayerWeights& layer, bool attention, bool mlp, int rank) const noexcept;

  // Calls body(begin, end) for parts of a tile's outputs that TaskBuffers have room for.
  template <class Body>
  void for_each_part(const Tile& tile, const Body& body) const noexcept;

  // All outputs of `linear` for num_rows rows of the input.
  void matmul(const LinearWeights& linear, const Activations& input, int64_t input_row, int64_t num_rows,
              const FloatRows& output) const noexcept;

  const Config& config_;
  const ModelWeights& weights_;
  const KernelTable& kernels_;
  const RotaryTable& rotary_;
  Workspace& workspace_;
  std::span<const Segment> segments_;
  HeadOutput output_;
  TaskOrder head_order_;
  int64_t num_rows_ = 0;
  int64_t num_logits_ = 0;
  int64_t heads_per_task_;
};

}  // namespace pythia
