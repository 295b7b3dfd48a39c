// The attention of an InspectedPass.
#include <algorithm>
#include <cmath>
#include <limits>

#include "format/pcpu_format.h"
#include "model/inspection.h"
#include "model/softmax_row.h"

namespace pythia {
namespace {

// A dimension of a value in a cache (kernels/kv_head.h).
float stored_value(const KvHead& head, int64_t position, int64_t d, int64_t value_stride) {
  if (head.format == KvFormat::kF32) return reinterpret_cast<const float*>(head.values)[position * value_stride + d];
  const auto* codes = reinterpret_cast<const int16_t*>(head.values);
  return static_cast<float>(codes[(position / 2 * value_stride + d) * 2 + position % 2]) * head.value_scales[position];
}

}  // namespace

void InspectedPass::attention(const std::string& prefix, const LayerWeights& layer) {
  const std::string name = prefix + "attn.";
  const Activations& projected = query_key_value_;
  const Activations& weighted = workspace_.attention;
  normalize(prefix + "ln1.", layer.input_layernorm, workspace_.attention_input);
  linear(layer.query_key_value, workspace_.attention_input, projected.row(0), projected.stride());
  show(name + "hook_q", part_view(0));
  show(name + "hook_k", part_view(1));
  show(name + "hook_v", part_view(2));
  rotate();
  show(name + "hook_rot_q", part_view(0));
  show(name + "hook_rot_k", part_view(1));
  store_keys_values();
  attend();
  for (const Sequence& sequence : sequences_)
    if (inspect_scores(name, sequence)) weigh_values(sequence);
  show(name + "hook_z", heads_view(weighted.row(0), weighted.stride(), head_dim_));
  linear(layer.dense, weighted, attention_output_.row(0), attention_output_.stride());
  show(prefix + "hook_attn_out", rows_view(attention_output_, config_.hidden_size));
}

void InspectedPass::rotate() {
  for (const Sequence& sequence : sequences_) {
    const auto rotate_row = [&](int64_t i) {
      const float* cos = rotary_.cos(sequence.num_past + i);
      const float* sin = rotary_.sin(sequence.num_past + i);
      float* query = query_key_value_.row(sequence.first_row + i);
      for (int64_t head = 0; head < num_heads_; ++head, query += 3 * head_dim_) {
        kernels_.rotary(query, cos, sin, rotary_.half());
        kernels_.rotary(query + head_dim_, cos, sin, rotary_.half());
      }
    };
    run_job_([&](Team& team) { team.for_each(sequence.num_tokens(), rotate_row); }, 1);
  }
}

KvHead InspectedPass::kept(const Sequence& sequence, int64_t head) const {
  return sequence.cache->head(sequence.slice.cache ? layer_ : 0, head);
}

int64_t InspectedPass::attention_work(const Sequence& sequence) const {
  return sequence.num_tokens() * sequence.num_keys() * config_.hidden_size;
}

void InspectedPass::for_each_head(const std::function<void(const Sequence&, int64_t)>& task) {
  int64_t work = 0;
  for (const Sequence& sequence : sequences_) work += attention_work(sequence);
  const auto num_sequences = static_cast<int64_t>(sequences_.size());
  // A head's scratch serves one sequence after the other.
  for_each(num_heads_, work, [&](int64_t head) {
    for (int64_t i = 0; i < num_sequences; ++i) task(sequences_[static_cast<std::size_t>(i)], head);
  });
}

void InspectedPass::store_keys_values() {
  const Activations& projected = query_key_value_;
  for_each_head([&](const Sequence& sequence, int64_t head) {
    const float* keys = projected.row(sequence.first_row) + (3 * head + 1) * head_dim_;
    kernels_.store_keys_values({.keys = keys,
                                .values = keys + head_dim_,
                                .stride = projected.stride(),
                                .num_positions = sequence.num_tokens(),
                                .first_position = sequence.num_past,
                                .head_dim = head_dim_,
                                .cache = kept(sequence, head)});
  });
}

void InspectedPass::attend() {
  for_each_head([&](const Sequence& sequence, int64_t head) { kernels_.attention(attention_args(sequence, head)); });
}

AttentionArgs InspectedPass::attention_args(const Sequence& sequence, int64_t head) {
  return {.queries = query_key_value_.row(sequence.first_row) + 3 * head * head_dim_,
          .queries_stride = query_key_value_.stride(),
          .num_queries = sequence.num_tokens(),
          .first_position = sequence.num_past,
          .cache = kept(sequence, head),
          .head_dim = head_dim_,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim_)),
          .out = workspace_.attention.row(sequence.first_row) + head * head_dim_,
          .out_stride = workspace_.attention.stride(),
          .scratch = workspace_.scratch.data() + head * workspace_.scratch_floats};
}

// Shows scores and pattern where they are wanted. Returns whether one was changed: then pattern_ is what to weigh values by, in
// the rows that is_changed_ has.
bool InspectedPass::inspect_scores(const std::string& prefix, const Sequence& sequence) {
  const std::string scores_name = prefix + "hook_attn_scores", pattern_name = prefix + "hook_pattern";
  const bool wants_scores = inspector_.wants(scores_name), wants_pattern = inspector_.wants(pattern_name);
  if (!wants_scores && !wants_pattern) return false;
  const int64_t num_rows = num_heads_ * sequence.num_tokens(), work = attention_work(sequence);
  pattern_.reserve(num_rows * sequence.num_keys());
  is_changed_.assign(static_cast<std::size_t>(num_rows), 0);
  for_each(num_heads_, work,
           [&](int64_t head) { compute_scores(sequence, head, pattern_row(sequence, head * sequence.num_tokens()).data()); });
  const bool changed_scores = wants_scores && show_rows(scores_name, sequence);
  if (changed_scores || wants_pattern)
    for_each(num_rows, work, [&](int64_t row) { softmax_row(kernels_, pattern_row(sequence, row)); });
  const bool changed_pattern = wants_pattern && show_rows(pattern_name, sequence);
  return changed_scores || changed_pattern;
}

std::span<float> InspectedPass::pattern_row(const Sequence& sequence, int64_t row) const {
  return {pattern_.data() + row * sequence.num_keys(), static_cast<std::size_t>(sequence.num_keys())};
}

// Shows what is in pattern_, and marks the rows that come back changed. Returns whether there are any.
bool InspectedPass::show_rows(const std::string& name, const Sequence& sequence) {
  const int64_t shape[] = {num_heads_, sequence.num_tokens(), sequence.num_keys()};
  const int64_t num_rows = num_heads_ * sequence.num_tokens(), work = attention_work(sequence);
  const auto checksum = [&](int64_t row) {
    const std::span<float> values = pattern_row(sequence, row);
    return checksum64(values.data(), values.size_bytes());
  };
  row_checksums_.resize(static_cast<std::size_t>(num_rows));
  for_each(num_rows, work, [&](int64_t row) { row_checksums_[static_cast<std::size_t>(row)] = checksum(row); });
  const auto size = static_cast<std::size_t>(num_rows * sequence.num_keys());
  if (!inspector_.visit(sequence.index, name, shape, {pattern_.data(), size})) return false;
  for_each(num_rows, work, [&](int64_t row) {
    const auto at = static_cast<std::size_t>(row);
    is_changed_[at] |= static_cast<uint8_t>(row_checksums_[at] != checksum(row));
  });
  return true;
}

void InspectedPass::compute_scores(const Sequence& sequence, int64_t head, float* scores) {
  const int64_t num_keys = sequence.num_keys();
  AttentionArgs args = attention_args(sequence, head);
  args.out = scores;
  args.out_stride = num_keys;
  kernels_.attention_scores(args);
  for (int64_t query = 0; query < sequence.num_tokens(); ++query, scores += num_keys)
    std::fill(scores + sequence.num_past + query + 1, scores + num_keys, -std::numeric_limits<float>::infinity());
}

// attention = pattern v, where the pattern is not what it was: the other rows keep what attend() made of them. The values are
// those before they were stored, or of earlier tokens those of the cache.
void InspectedPass::weigh_values(const Sequence& sequence) {
  const int64_t stride = round_up(head_dim_, kPanelWidth), num_keys = sequence.num_keys(), num_tokens = sequence.num_tokens();
  const Activations& projected = query_key_value_;
  values_.reserve(num_heads_ * num_keys * stride);
  for_each(num_heads_, attention_work(sequence), [&](int64_t head) {
    float* packed = values_.data() + head * num_keys * stride;
    for (int64_t position = 0; position < num_keys; ++position) {
      const int64_t i = position - sequence.num_past;
      const float* value = i < 0 ? nullptr : projected.row(sequence.first_row + i) + (3 * head + 2) * head_dim_;
      for (int64_t d = 0; d < stride; ++d)
        packed[(d / kPanelWidth * num_keys + position) * kPanelWidth + d % kPanelWidth] =
            d >= head_dim_ ? 0.0f
            : value        ? value[d]
                           : stored_value(kept(sequence, head), position, d, stride);
    }
    const uint8_t* is_changed = is_changed_.data() + head * num_tokens;
    for (int64_t begin = 0, end; begin < num_tokens; begin = end) {
      for (end = begin + 1; end < num_tokens && is_changed[end] == is_changed[begin]; ++end) continue;
      if (!is_changed[begin]) continue;
      kernels_.matmul(
          {.weights = {.data = reinterpret_cast<const std::byte*>(packed), .outputs = head_dim_, .inputs = num_keys},
           .panel_end = num_panels(head_dim_),
           .num_rows = end - begin,
           .x = pattern_row(sequence, head * num_tokens + begin).data(),
           .x_stride = num_keys,
           .quantized_x = {},
           .y = workspace_.attention.row(sequence.first_row + begin) + head * head_dim_,
           .y_stride = workspace_.attention.stride()});
    }
  });
}

}  // namespace pythia
