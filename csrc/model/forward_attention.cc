// The attention of a forward pass: query_key_value, rotary embedding, the key-value cache, and the softmax over it.
#include <algorithm>
#include <cmath>

#include "model/forward.h"

namespace pythia {
namespace {

// Queries that one attention task takes; a multiple of the kernel's own block, and small enough to share a prompt between
// threads.
constexpr int64_t kQueriesPerTask = 96;

int64_t num_query_blocks(const Segment& segment) { return ceil_div(segment.num_rows(), kQueriesPerTask); }

}  // namespace

bool ForwardPass::projection_attends(int threads, HeadParts parts) const noexcept {
  if (parts == HeadParts::kQueries) return true;  // all keys are in the caches
  const RowBlocks blocks(num_rows_, threads);
  return std::ranges::all_of(segments_, [&](const Segment& segment) {
    return segment.first_row / blocks.height() == (segment.end_row() - 1) / blocks.height();
  });
}

int64_t ForwardPass::num_project_tasks(int threads) const noexcept {
  return num_head_groups() * RowBlocks(num_rows_, threads).size();
}

ForwardPass::Heads ForwardPass::head_group(int64_t group) const noexcept {
  return {group * heads_per_task_, std::min<int64_t>(config_.num_attention_heads, (group + 1) * heads_per_task_)};
}

void ForwardPass::project_heads(const Team& team, int64_t task, int64_t index, int64_t input_row, HeadParts parts,
                                bool attends) const noexcept {
  const RowBlocks blocks(num_rows_, team.size());
  const Heads heads = head_group(task / blocks.size());
  const int64_t row_begin = blocks.begin(task % blocks.size()), row_end = blocks.end(task % blocks.size());
  project(heads, row_begin, row_end, index, input_row, parts);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    const int64_t begin = std::max(row_begin, segment.first_row), end = std::min(row_end, segment.end_row());
    if (begin >= end) continue;
    // Short sequences lie apart in memory: ask for the next one's keys and values while this one's are used.
    if (attends && end < row_end && i + 1 < segments_.size())
      for (int64_t head = heads.begin; head < heads.end; ++head)
        segments_[i + 1].cache->prefetch(index, head, segments_[i + 1].first_position);
    rotate_and_store(segment, begin, end, heads, index, parts);
    if (attends) attend_rows(segment, begin, end, heads, index, team.rank());
  }
}

// Of whole panels only the parts that are asked for; where a head's parts share panels, all.
void ForwardPass::project(Heads heads, int64_t row_begin, int64_t row_end, int64_t index, int64_t input_row,
                          HeadParts parts) const noexcept {
  const int64_t head_dim = config_.head_dim(), head_outputs = 3 * head_dim;
  const auto run = [&](int64_t begin, int64_t end) {
    const Tile tile = {begin / kPanelWidth, ceil_div(end, kPanelWidth), row_begin, row_end};
    matmul(weights_.layers[static_cast<std::size_t>(index)].query_key_value, workspace_.attention_input, input_row, tile,
           workspace_.query_key_value.row(0), workspace_.query_key_value.stride());
  };
  if (parts == HeadParts::kAll || head_dim % kPanelWidth != 0) return run(heads.begin * head_outputs, heads.end * head_outputs);
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    const int64_t query = head * head_outputs, key = query + head_dim;
    parts == HeadParts::kQueries ? run(query, key) : run(key, query + head_outputs);
  }
}

void ForwardPass::rotate_and_store(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index,
                                   HeadParts parts) const noexcept {
  const Activations& output = workspace_.query_key_value;
  const int64_t head_dim = config_.head_dim(), num_rows = row_end - row_begin;
  const int64_t first_position = segment.first_position + (row_begin - segment.first_row);
  const auto rotate = [&](int64_t column) {
    for (int64_t i = 0; i < num_rows; ++i)
      kernels_.rotary(output.row(row_begin + i) + column, rotary_.cos(first_position + i), rotary_.sin(first_position + i),
                      rotary_.half());
  };
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    const int64_t query = 3 * head * head_dim, key = query + head_dim;
    if (parts != HeadParts::kKeysValues) rotate(query);
    if (parts == HeadParts::kQueries) continue;
    rotate(key);
    kernels_.store_keys_values({.keys = output.row(row_begin) + key,
                                .values = output.row(row_begin) + key + head_dim,
                                .stride = output.stride(),
                                .num_positions = num_rows,
                                .first_position = first_position,
                                .head_dim = head_dim,
                                .cache = segment.cache->head(index, head)});
  }
}

int64_t ForwardPass::num_attend_tasks() const noexcept {
  int64_t blocks = 0;
  for (const Segment& segment : segments_) blocks += num_query_blocks(segment);
  return blocks * num_head_groups();
}

// Later blocks of queries see more keys and go first.
void ForwardPass::attend(int64_t task, int64_t index, int rank) const noexcept {
  const int64_t groups = num_head_groups();
  int64_t block = num_attend_tasks() / groups - 1 - task / groups;
  const Segment* segment = segments_.data();
  for (; block >= num_query_blocks(*segment); ++segment) block -= num_query_blocks(*segment);
  const int64_t begin = segment->first_row + block * kQueriesPerTask;
  attend_rows(*segment, begin, std::min(begin + kQueriesPerTask, segment->end_row()), head_group(task % groups), index, rank);
}

void ForwardPass::attend_rows(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index,
                              int rank) const noexcept {
  const int64_t head_dim = config_.head_dim();
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    kernels_.attention({.queries = workspace_.query_key_value.row(row_begin) + 3 * head * head_dim,
                        .queries_stride = workspace_.query_key_value.stride(),
                        .num_queries = row_end - row_begin,
                        .first_position = segment.first_position + (row_begin - segment.first_row),
                        .cache = segment.cache->head(index, head),
                        .head_dim = head_dim,
                        .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                        .out = workspace_.attention.row(row_begin) + head * head_dim,
                        .out_stride = workspace_.attention.stride(),
                        .scratch = workspace_.scratch.data() + rank * workspace_.scratch_floats});
  }
  if (quantizes(weights_.layers[static_cast<std::size_t>(index)].dense))
    for (int64_t row = row_begin; row < row_end; ++row)
      workspace_.attention.quantize(kernels_, row, heads.begin * head_dim, heads.end * head_dim);
}

}  // namespace pythia
