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
  const int64_t head_dim = config_.head_dim();
  const FloatRows outputs = workspace_.tasks.first(team.rank(), heads.size() * 3 * head_dim);
  project(heads, row_begin, row_end, index, input_row, parts, outputs);
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    const int64_t begin = std::max(row_begin, segment.first_row), end = std::min(row_end, segment.end_row());
    if (begin >= end) continue;
    // Short sequences lie apart in memory: ask for the next one's keys and values while this one's are used.
    if (attends && end < row_end && i + 1 < segments_.size())
      for (int64_t head = heads.begin; head < heads.end; ++head)
        segments_[i + 1].cache->prefetch(index, head, segments_[i + 1].first_position);
    const FloatRows of_segment = outputs.from(begin - row_begin, 0);
    rotate_and_store(segment, begin, end, heads, index, parts, of_segment);
    if (attends) {
      attend_rows(segment, begin, end, heads, index, team.rank(), of_segment, 3 * head_dim);
    } else if (parts != HeadParts::kKeysValues) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t head = heads.begin; head < heads.end; ++head)
          std::copy_n(outputs.row(row - row_begin) + 3 * (head - heads.begin) * head_dim, head_dim,
                      workspace_.queries.row(row) + head * head_dim);
    }
  }
}

// Of whole panels only the parts that are asked for; where a head's parts share panels, all.
void ForwardPass::project(Heads heads, int64_t row_begin, int64_t row_end, int64_t index, int64_t input_row, HeadParts parts,
                          const FloatRows& outputs) const noexcept {
  const int64_t head_dim = config_.head_dim(), head_outputs = 3 * head_dim;
  const auto run = [&](int64_t begin, int64_t end) {
    matmul(outputs_of(weights_.layers[static_cast<std::size_t>(index)].query_key_value, begin, end), workspace_.attention_input,
           input_row + row_begin, row_end - row_begin, outputs.from(0, begin - heads.begin * head_outputs));
  };
  if (parts == HeadParts::kAll || head_dim % kPanelWidth != 0) return run(heads.begin * head_outputs, heads.end * head_outputs);
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    const int64_t query = head * head_outputs, key = query + head_dim;
    parts == HeadParts::kQueries ? run(query, key) : run(key, query + head_outputs);
  }
}

void ForwardPass::rotate_and_store(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index,
                                   HeadParts parts, const FloatRows& outputs) const noexcept {
  const int64_t head_dim = config_.head_dim(), num_rows = row_end - row_begin;
  const int64_t first_position = segment.first_position + (row_begin - segment.first_row);
  const auto rotate = [&](int64_t column) {
    for (int64_t i = 0; i < num_rows; ++i)
      kernels_.rotary(outputs.row(i) + column, rotary_.cos(first_position + i), rotary_.sin(first_position + i),
                      rotary_.half());
  };
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    const int64_t query = 3 * (head - heads.begin) * head_dim, key = query + head_dim;
    if (parts != HeadParts::kKeysValues) rotate(query);
    if (parts == HeadParts::kQueries) continue;
    rotate(key);
    kernels_.store_keys_values({.keys = outputs.first + key,
                                .values = outputs.first + key + head_dim,
                                .stride = outputs.stride,
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
  const int64_t begin = segment->first_row + block * kQueriesPerTask, head_dim = config_.head_dim();
  const Heads heads = head_group(task % groups);
  attend_rows(*segment, begin, std::min(begin + kQueriesPerTask, segment->end_row()), heads, index, rank,
              workspace_.queries.rows().from(begin, heads.begin * head_dim), head_dim);
}

void ForwardPass::attend_rows(const Segment& segment, int64_t row_begin, int64_t row_end, Heads heads, int64_t index, int rank,
                              const FloatRows& queries, int64_t head_stride) const noexcept {
  const int64_t head_dim = config_.head_dim(), first_column = heads.begin * head_dim;
  const bool quantized = quantizes(weights_.layers[static_cast<std::size_t>(index)].dense);
  const FloatRows out = quantized ? workspace_.tasks.second(rank, heads.size() * head_dim)
                                  : workspace_.attention.rows().from(row_begin, first_column);
  for (int64_t head = heads.begin; head < heads.end; ++head) {
    kernels_.attention({.queries = queries.first + (head - heads.begin) * head_stride,
                        .queries_stride = queries.stride,
                        .num_queries = row_end - row_begin,
                        .first_position = segment.first_position + (row_begin - segment.first_row),
                        .cache = segment.cache->head(index, head),
                        .head_dim = head_dim,
                        .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                        .out = out.first + (head - heads.begin) * head_dim,
                        .out_stride = out.stride,
                        .scratch = workspace_.scratch.data() + rank * workspace_.scratch_floats});
  }
  if (quantized)
    for (int64_t row = row_begin; row < row_end; ++row)
      workspace_.attention.quantize(kernels_, row, first_column, heads.end * head_dim, out.row(row - row_begin));
}

}  // namespace pythia
