#include "model/forward.h"

#include <algorithm>
#include <cmath>

namespace pythia {
namespace {

constexpr int64_t kRowsPerTask = 8;  // where a row is little work

}  // namespace

ForwardPass::ForwardPass(const Config& config, const ModelWeights& weights, const KernelTable& kernels,
                         const RotaryTable& rotary, Workspace& workspace, std::span<const Segment> segments,
                         const HeadOutput& output, TaskOrder head_order)
    : config_(config),
      weights_(weights),
      kernels_(kernels),
      rotary_(rotary),
      workspace_(workspace),
      segments_(segments),
      output_(output),
      head_order_(head_order),
      heads_per_task_(heads_per_task(config)) {
  for (const Segment& segment : segments) {
    num_rows_ += static_cast<int64_t>(segment.tokens.size());
    num_logits_ += segment.num_logits;
  }
}

void select_rows_with_logits(std::span<const Segment> segments, std::vector<Segment>& selected) {
  selected.clear();
  int64_t row = 0;
  for (Segment segment : segments) {
    if (segment.num_logits == 0) continue;
    segment.first_position += static_cast<int64_t>(segment.tokens.size()) - segment.num_logits;
    segment.tokens = segment.tokens.last(static_cast<std::size_t>(segment.num_logits));
    segment.first_row = row;
    row += segment.num_logits;
    selected.push_back(segment);
  }
}

void ForwardPass::run(Team& team) const noexcept {
  embed(team);
  layers(team, 0, config_.num_hidden_layers, HeadParts::kAll);
  head(team);
}

void ForwardPass::run(Team& team, const ForwardPass& last) const noexcept {
  const int64_t index = config_.num_hidden_layers - 1;
  embed(team);
  layers(team, 0, index, HeadParts::kAll);
  store_keys_values(team, index);
  if (last.num_rows_ == 0) return;
  gather_residual(team, last);
  last.layers(team, index, index + 1, HeadParts::kQueries);
  last.head(team);
}

void ForwardPass::layers(Team& team, int64_t begin, int64_t end, HeadParts parts) const noexcept {
  for (int64_t index = begin; index < end; ++index) {
    if (config_.use_parallel_residual)
      parallel_layer(team, index, parts);
    else
      sequential_layer(team, index, parts);
  }
}

template <class Body>
void ForwardPass::for_each_rows(Team& team, const Body& body) const noexcept {
  const RowBlocks blocks(num_rows_, team.size());
  team.for_each(blocks.size() * ceil_div(blocks.height(), kRowsPerTask), [&](int64_t i) {
    const int64_t block = i % blocks.size(), begin = blocks.begin(block) + i / blocks.size() * kRowsPerTask;
    const int64_t end = std::min(blocks.end(block), begin + kRowsPerTask);
    if (begin < end) body(begin, end);  // the last block may have fewer rows
  });
}

void ForwardPass::begin() const noexcept {
  if (embeds_at_once()) embed_rows(0, num_rows_);
}

void ForwardPass::embed(Team& team) const noexcept {
  if (embeds_at_once()) return;
  for_each_rows(team, [&](int64_t begin, int64_t end) { embed_rows(begin, end); });
}

void ForwardPass::embed_rows(int64_t begin, int64_t end) const noexcept {
  const int64_t row_bytes = config_.hidden_size * element_size_bytes(weights_.embed_format);
  auto segment = std::ranges::upper_bound(segments_, begin, {}, &Segment::end_row);
  for (int64_t row = begin; row < end; ++row) {
    if (row == segment->end_row()) ++segment;
    const int32_t token = segment->tokens[static_cast<std::size_t>(row - segment->first_row)];
    kernels_.to_float(weights_.embed_format, weights_.embed_in + token * row_bytes, config_.hidden_size,
                      workspace_.residual.row(row));
  }
}

// x = x + attention(ln1(x)) + mlp(ln2(x)): the two halves share their phases.
void ForwardPass::parallel_layer(Team& team, int64_t index, HeadParts parts) const noexcept {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const Normalization both[] = {{layer.input_layernorm, layer.query_key_value, workspace_.attention_input},
                                {layer.post_attention_layernorm, layer.dense_h_to_4h, workspace_.mlp_input}};
  const int64_t input_row = normalize_all(team, both);

  const Tiling intermediate(config_.intermediate_size, num_rows_, team.size());
  const int64_t project_tasks = num_project_tasks(team.size());
  const bool attends = projection_attends(team.size(), parts);
  team.for_each(project_tasks + intermediate.size(), [&](int64_t i) {
    if (i < project_tasks)
      project_heads(team, i, index, input_row, parts, attends);
    else
      expand(intermediate[i - project_tasks], layer, input_row, team.rank());
  });
  if (!attends) team.for_each(num_attend_tasks(), [&](int64_t i) { attend(i, index, team.rank()); });
  const Tiling hidden(config_.hidden_size, num_rows_, team.size());
  team.for_each(hidden.size(), [&](int64_t i) { contract(hidden[i], layer, true, true, team.rank()); });
}

// x = x + attention(ln1(x)); x = x + mlp(ln2(x)).
void ForwardPass::sequential_layer(Team& team, int64_t index, HeadParts parts) const noexcept {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const Tiling hidden(config_.hidden_size, num_rows_, team.size());
  const Tiling intermediate(config_.intermediate_size, num_rows_, team.size());

  const Normalization first[] = {{layer.input_layernorm, layer.query_key_value, workspace_.attention_input}};
  const int64_t attention_row = normalize_all(team, first);
  const bool attends = projection_attends(team.size(), parts);
  team.for_each(num_project_tasks(team.size()),
                [&](int64_t i) { project_heads(team, i, index, attention_row, parts, attends); });
  if (!attends) team.for_each(num_attend_tasks(), [&](int64_t i) { attend(i, index, team.rank()); });
  team.for_each(hidden.size(), [&](int64_t i) { contract(hidden[i], layer, true, false, team.rank()); });

  const Normalization second[] = {{layer.post_attention_layernorm, layer.dense_h_to_4h, workspace_.mlp_input}};
  const int64_t mlp_row = normalize_all(team, second);
  team.for_each(intermediate.size(), [&](int64_t i) { expand(intermediate[i], layer, mlp_row, team.rank()); });
  team.for_each(hidden.size(), [&](int64_t i) { contract(hidden[i], layer, false, true, team.rank()); });
}

void ForwardPass::store_keys_values(Team& team, int64_t index) const noexcept {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const Normalization norm[] = {{layer.input_layernorm, layer.query_key_value, workspace_.attention_input}};
  const int64_t input_row = normalize_all(team, norm);
  team.for_each(num_project_tasks(team.size()),
                [&](int64_t i) { project_heads(team, i, index, input_row, HeadParts::kKeysValues, false); });
}

// Rows move up only, so one thread moves them in order.
void ForwardPass::gather_residual(Team& team, const ForwardPass& last) const noexcept {
  team.for_each(1, [&](int64_t) {
    int64_t to = 0;
    for (const Segment& segment : segments_) {
      const int64_t end = segment.first_row + static_cast<int64_t>(segment.tokens.size());
      for (int64_t row = end - segment.num_logits; row < end; ++row, ++to)
        std::copy_n(workspace_.residual.row(row), row == to ? 0 : config_.hidden_size, last.workspace_.residual.row(to));
    }
  });
}

void ForwardPass::head(Team& team) const noexcept {
  if (num_logits_ == 0) return;
  const Normalization last = {weights_.final_layer_norm, weights_.embed_out, workspace_.head_input};
  // Rows with logits lie side by side in head_input, segment after segment.
  const bool few = num_logits_ <= kFewRows;
  const int64_t input_row = few ? team.rank() * num_logits_ : 0;
  int64_t output_row = input_row;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    const int64_t end = segment.first_row + static_cast<int64_t>(segment.tokens.size());
    for (int64_t row = end - segment.num_logits; row < end; ++row, ++output_row)
      if (few || output_row % team.size() == team.rank()) normalize(row, output_row, last, team.rank());
  }
  if (!few) team.barrier();
  if (output_.choices) return choose(team, input_row);
  if (output_.scores) return score(team, input_row);
  if (output_.maxima.of_blocks) return logits_and_maxima(team, input_row);

  const Tiling vocab(config_.vocab_size, num_logits_, team.size());
  team.for_each_at_end(vocab.size(), head_order_, [&](int64_t i) {
    const Tile tile = vocab[i];
    const FloatRows logits = {output_.logits + tile.row_begin * config_.vocab_size + tile.begin, config_.vocab_size};
    matmul(outputs_of(weights_.embed_out, tile.begin, tile.end), workspace_.head_input, input_row + tile.row_begin,
           tile.num_rows(), logits);
  });
}

// The targets' own logits first: ranks need them. Then tasks are chunks of outputs by blocks of rows; blocks of the same chunk
// follow each other, so that the weights are read from memory once.
void ForwardPass::score(Team& team, int64_t input_row) const noexcept {
  const int64_t chunks = ceil_div(config_.vocab_size, kLogitChunk), blocks = ceil_div(num_logits_, kScoreRows);
  std::fill_n(workspace_.scores.choices(team.rank(), num_logits_), num_logits_, GreedyChoice());
  team.for_each(blocks, [&](int64_t block) {
    const int64_t end = std::min(num_logits_, (block + 1) * kScoreRows);
    for (int64_t row = block * kScoreRows; row < end; ++row) target_logit(row, input_row);
  });
  team.for_each(chunks * blocks,
                [&](int64_t i) { summarize_chunk(i / blocks, i % blocks * kScoreRows, input_row, team.rank()); });
  team.for_each_at_end(blocks, TaskOrder::kForwards, [&](int64_t block) {
    const int64_t end = std::min(num_logits_, (block + 1) * kScoreRows);
    for (int64_t row = block * kScoreRows; row < end; ++row)
      output_.scores[row] = score_of(kernels_, workspace_.scores.summaries(row), workspace_.scores.target_logit(row),
                                     workspace_.scores.choice(row, num_logits_, team.size()).id);
  });
}

// One panel of the head's outputs, which holds the target's.
void ForwardPass::target_logit(int64_t row, int64_t input_row) const noexcept {
  const int64_t target = output_.targets[row], first = target / kPanelWidth * kPanelWidth;
  float logits[kPanelWidth];
  matmul(outputs_of(weights_.embed_out, first, first + kPanelWidth), workspace_.head_input, input_row + row, 1,
         {logits, kPanelWidth});
  workspace_.scores.target_logit(row) = logits[target - first];
}

// The summaries of one chunk of outputs, for the block of rows from row_begin.
void ForwardPass::summarize_chunk(int64_t chunk, int64_t row_begin, int64_t input_row, int rank) const noexcept {
  static_assert(kLogitChunk % kPanelWidth == 0);
  const int64_t first = chunk * kLogitChunk, rows = std::min(kScoreRows, num_logits_ - row_begin);
  const LinearWeights part = outputs_of(weights_.embed_out, first, first + kLogitChunk);
  const int64_t outputs = part.weight.outputs;
  float* logits = workspace_.tasks.logits(rank);
  matmul(part, workspace_.head_input, input_row + row_begin, rows, {logits, kLogitChunk});
  for (int64_t row = row_begin; row < row_begin + rows; ++row, logits += kLogitChunk) {
    const ScoreTarget target = {.id = output_.targets[row], .logit = workspace_.scores.target_logit(row)};
    LogitSummary& summary = workspace_.scores.summaries(row)[static_cast<std::size_t>(chunk)];
    summary = target.summarize(kernels_, logits, first, outputs);
    workspace_.scores.choices(rank, num_logits_)[row].see(kernels_, logits, first, outputs, summary.largest);
  }
}

void ForwardPass::normalize(int64_t row, int64_t output_row, const Normalization& to, int rank) const noexcept {
  const bool quantized = quantizes(to.next);
  float* output = quantized ? workspace_.tasks.first(rank, config_.hidden_size).row(0) : to.output.row(output_row);
  kernels_.layer_norm(workspace_.residual.row(row), to.norm.weight, to.norm.bias, config_.hidden_size,
                      static_cast<float>(config_.layer_norm_eps), output);
  if (quantized) to.output.quantize(kernels_, output_row, 0, config_.hidden_size, output);
}

int64_t ForwardPass::normalize_all(Team& team, std::span<const Normalization> normalizations) const noexcept {
  if (num_rows_ <= kFewRows) {
    const int64_t first = team.rank() * num_rows_;
    for (const Normalization& to : normalizations)
      for (int64_t row = 0; row < num_rows_; ++row) normalize(row, first + row, to, team.rank());
    return first;
  }
  for_each_rows(team, [&](int64_t begin, int64_t end) {
    for (const Normalization& to : normalizations)
      for (int64_t row = begin; row < end; ++row) normalize(row, row, to, team.rank());
  });
  return 0;
}

template <class Body>
void ForwardPass::for_each_part(const Tile& tile, const Body& body) const noexcept {
  const int64_t columns = TaskBuffers::part_panels(tile.num_rows()) * kPanelWidth;
  for (int64_t begin = tile.begin; begin < tile.end; begin += columns) body(begin, std::min(tile.end, begin + columns));
}

// dense_h_to_4h and the activation, for a tile of outputs.
void ForwardPass::expand(const Tile& tile, const LayerWeights& layer, int64_t input_row, int rank) const noexcept {
  const Activations& output = workspace_.intermediate;
  const auto run = [&](int64_t begin, int64_t end, const FloatRows& rows) {
    matmul(outputs_of(layer.dense_h_to_4h, begin, end), workspace_.mlp_input, input_row + tile.row_begin, tile.num_rows(),
           rows);
    for (int64_t i = 0; i < tile.num_rows(); ++i) {
      kernels_.activation(config_.hidden_act, rows.row(i), end - begin);
      if (quantizes(layer.dense_4h_to_h)) output.quantize(kernels_, tile.row_begin + i, begin, end, rows.row(i));
    }
  };
  if (quantizes(layer.dense_4h_to_h))
    for_each_part(tile, [&](int64_t begin, int64_t end) { run(begin, end, workspace_.tasks.first(rank, end - begin)); });
  else
    run(tile.begin, tile.end, output.rows().from(tile.row_begin, tile.begin));
}

// attention.dense, dense_4h_to_h or both, added to the residual stream, for a tile of outputs. With both, the sums go in
// transformers' order: (mlp + attention) + residual.
void ForwardPass::contract(const Tile& tile, const LayerWeights& layer, bool attention, bool mlp, int rank) const noexcept {
  for_each_part(tile, [&](int64_t begin, int64_t end) {
    const FloatRows a = workspace_.tasks.first(rank, end - begin), m = workspace_.tasks.second(rank, end - begin);
    const auto run = [&](const LinearWeights& linear, const Activations& input, const FloatRows& to) {
      matmul(outputs_of(linear, begin, end), input, tile.row_begin, tile.num_rows(), to);
    };
    if (attention) run(layer.dense, workspace_.attention, a);
    if (mlp) run(layer.dense_4h_to_h, workspace_.intermediate, m);
    for (int64_t i = 0; i < tile.num_rows(); ++i) {
      float* update = (mlp ? m : a).row(i);
      if (attention && mlp) kernels_.add(update, a.row(i), end - begin, update);
      float* residual = workspace_.residual.row(tile.row_begin + i) + begin;
      kernels_.add(update, residual, end - begin, residual);
    }
  });
}

void ForwardPass::matmul(const LinearWeights& linear, const Activations& input, int64_t input_row, int64_t num_rows,
                         const FloatRows& output) const noexcept {
  kernels_.matmul({.weights = linear.weight,
                   .panel_begin = 0,
                   .panel_end = num_panels(linear.weight.outputs),
                   .num_rows = num_rows,
                   .x = input.row(input_row),
                   .x_stride = input.stride(),
                   .quantized_x = quantizes(linear) ? input.quantized(input_row) : QuantizedRows{},
                   .bias = linear.bias,
                   .y = output.first,
                   .y_stride = output.stride});
}

}  // namespace pythia
