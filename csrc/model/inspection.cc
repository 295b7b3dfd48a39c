#include "model/inspection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "format/pcpu_format.h"
#include "model/softmax_row.h"
#include "model/tiling.h"

namespace pythia {
namespace {

Config one_layer(Config config) {
  config.num_hidden_layers = 1;
  return config;
}

// Bit by bit.
bool is_same(std::span<const float> a, std::span<const float> b) {
  return std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// A dimension of a value in a cache (kernels/kv_head.h).
float stored_value(const KvHead& head, int64_t position, int64_t d, int64_t value_stride) {
  if (head.format == KvFormat::kF32) return reinterpret_cast<const float*>(head.values)[position * value_stride + d];
  const auto* codes = reinterpret_cast<const int16_t*>(head.values);
  return static_cast<float>(codes[(position / 2 * value_stride + d) * 2 + position % 2]) * head.value_scales[position];
}

// Below so many multiply-adds a second thread would take as long to wake as it saves.
constexpr int64_t kWorkOfOneThread = int64_t{1} << 21;

int max_threads(int64_t multiply_adds) { return multiply_adds < kWorkOfOneThread ? 1 : 0; }

std::string block_prefix(int64_t index) { return "blocks." + std::to_string(index) + "."; }

}  // namespace

std::vector<std::string> hook_names(const Config& config) {
  std::vector<std::string> names = {"hook_embed"};
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const auto add = [&](std::initializer_list<const char*> last) {
      for (const char* name : last) names.push_back(block_prefix(i) + name);
    };
    add({"hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
         "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out"});
    if (!config.use_parallel_residual) add({"hook_resid_mid"});
    add({"ln2.hook_scale", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"});
  }
  names.insert(names.end(), {"ln_final.hook_scale", "ln_final.hook_normalized"});
  return names;
}

InspectedPass::InspectedPass(const Config& config, const ModelWeights& weights, const KernelTable& kernels,
                             const RotaryTable& rotary, bool quantized, int64_t num_tokens, RunJob run_job,
                             Inspector& inspector, KvCache* cache)
    : config_(config),
      weights_(weights),
      kernels_(kernels),
      rotary_(rotary),
      num_past_(cache ? cache->length() : 0),
      num_tokens_(num_tokens),
      num_keys_(num_past_ + num_tokens),
      num_heads_(config.num_attention_heads),
      head_dim_(config.head_dim()),
      run_job_(std::move(run_job)),
      inspector_(inspector),
      own_cache_(cache ? nullptr
                       : std::make_unique<KvCache>(KvLayout(one_layer(config), quantized ? KvFormat::kI16 : KvFormat::kF32),
                                                   num_tokens)),
      cache_(cache ? *cache : *own_cache_) {
  workspace_.reserve(config, num_tokens, static_cast<int>(num_heads_), quantized ? code_bytes(kernels.code_layout) : 0);
}

void InspectedPass::run(std::span<const int32_t> tokens, int64_t num_logits, float* logits) {
  embed(tokens);
  show("hook_embed", rows_view(workspace_.residual, config_.hidden_size));
  const int64_t num_layers = config_.num_hidden_layers;
  const int64_t num_needed = own_cache_ ? 0 : num_layers;  // a cache wants keys and values of all
  const int64_t num_wanted = num_logits > 0 ? num_layers + 1 : std::max(num_needed, num_layers_wanted());
  for (int64_t index = 0; index < std::min(num_wanted, num_layers); ++index) layer(index);
  if (num_wanted > num_layers) normalize("ln_final.", weights_.final_layer_norm, workspace_.head_input);
  if (num_logits > 0) head(num_logits, logits);
}

void InspectedPass::unembed(const float* residuals, float* logits) {
  for_each_row([&](int64_t row) {
    std::copy_n(residuals + row * config_.hidden_size, config_.hidden_size, workspace_.residual.row(row));
  });
  normalize("ln_final.", weights_.final_layer_norm, workspace_.head_input);
  head(num_tokens_, logits);
}

void InspectedPass::head(int64_t num_logits, float* logits) {
  linear(weights_.embed_out, workspace_.head_input, logits, config_.vocab_size, num_tokens_ - num_logits);
}

int64_t InspectedPass::num_layers_wanted() {
  const std::vector<std::string> names = hook_names(config_);
  const auto last = std::find_if(names.rbegin(), names.rend(), [&](const std::string& name) { return inspector_.wants(name); });
  if (last == names.rend() || *last == names.front()) return 0;
  int64_t index = 0;
  while (index < config_.num_hidden_layers && !last->starts_with(block_prefix(index))) ++index;
  return index + 1;
}

InspectedPass::View InspectedPass::rows_view(const Activations& rows, int64_t columns) const {
  return {rows.row(0), rows.stride(), 1, 0, columns, {num_tokens_, columns}};
}

InspectedPass::View InspectedPass::heads_view(float* data, int64_t row_stride, int64_t head_stride) const {
  return {data, row_stride, num_heads_, head_stride, head_dim_, {num_tokens_, num_heads_, head_dim_}};
}

InspectedPass::View InspectedPass::part_view(int64_t part) const {
  const Activations& all = workspace_.query_key_value;
  return heads_view(all.row(0) + part * head_dim_, all.stride(), 3 * head_dim_);
}

void InspectedPass::show(const std::string& name, const View& view) {
  if (!inspector_.wants(name)) return;
  const int64_t size = num_tokens_ * view.groups * view.columns;
  staging_.reserve(size);
  const auto copy = [&](auto copy_columns) {
    float* packed = staging_.data();
    for (int64_t row = 0; row < num_tokens_; ++row)
      for (int64_t group = 0; group < view.groups; ++group, packed += view.columns)
        copy_columns(view.data + row * view.row_stride + group * view.group_stride, packed);
  };
  copy([&](const float* in_place, float* packed) { std::copy_n(in_place, view.columns, packed); });
  if (inspector_.visit(name, view.shape, {staging_.data(), static_cast<std::size_t>(size)}))
    copy([&](float* in_place, const float* packed) { std::copy_n(packed, view.columns, in_place); });
}

void InspectedPass::for_each(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  run_job_([&](Team& team) { team.for_each(num_tasks, task); }, max_threads(num_tokens_ * num_keys_ * config_.hidden_size));
}

void InspectedPass::for_each_row(const std::function<void(int64_t)>& body) {
  run_job_([&](Team& team) { team.for_each(num_tokens_, body); }, 1);
}

void InspectedPass::embed(std::span<const int32_t> tokens) {
  const int64_t row_bytes = config_.hidden_size * element_size_bytes(weights_.embed_format);
  for_each_row([&](int64_t row) {
    kernels_.to_float(weights_.embed_format, weights_.embed_in + tokens[static_cast<std::size_t>(row)] * row_bytes,
                      config_.hidden_size, workspace_.residual.row(row));
  });
}

// The residual stream is added to in the order of ForwardPass: (mlp + attention) + residual where both halves read the same.
void InspectedPass::layer(int64_t index) {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const std::string prefix = block_prefix(index);
  cache_layer_ = own_cache_ ? 0 : index;
  const View residual = rows_view(workspace_.residual, config_.hidden_size);
  show(prefix + "hook_resid_pre", residual);
  attention(prefix, layer);
  if (!config_.use_parallel_residual) {
    add(workspace_.attention_output, workspace_.residual);
    show(prefix + "hook_resid_mid", residual);
  }
  mlp(prefix, layer);
  if (config_.use_parallel_residual) add(workspace_.attention_output, workspace_.mlp_output);
  add(workspace_.mlp_output, workspace_.residual);
  show(prefix + "hook_resid_post", residual);
}

void InspectedPass::normalize(const std::string& prefix, const LayerNormWeights& norm, const Activations& output) {
  for_each_row([&](int64_t row) {
    const float eps = static_cast<float>(config_.layer_norm_eps);
    kernels_.layer_norm(workspace_.residual.row(row), norm.weight, norm.bias, config_.hidden_size, eps, output.row(row));
  });
  if (inspector_.wants(prefix + "hook_scale")) {
    std::vector<float> scales(static_cast<std::size_t>(num_tokens_));
    for_each_row([&](int64_t row) {
      const std::span<const float> x(workspace_.residual.row(row), static_cast<std::size_t>(config_.hidden_size));
      double mean = 0, variance = 0;
      for (const float value : x) mean += value;
      mean /= static_cast<double>(x.size());
      for (const float value : x) variance += (value - mean) * (value - mean);
      variance /= static_cast<double>(x.size());
      scales[static_cast<std::size_t>(row)] = static_cast<float>(std::sqrt(variance + config_.layer_norm_eps));
    });
    const int64_t shape[] = {num_tokens_, 1};
    const std::vector<float> before = scales;
    if (inspector_.visit(prefix + "hook_scale", shape, scales)) normalize_by(scales, before, norm, output);
  }
  show(prefix + "hook_normalized", rows_view(output, config_.hidden_size));
}

// A LayerNorm that divides by given scales, of the rows where they are not as before.
void InspectedPass::normalize_by(std::span<const float> scales, std::span<const float> before, const LayerNormWeights& norm,
                                 const Activations& output) {
  for_each_row([&](int64_t row) {
    const auto at = static_cast<std::size_t>(row);
    if (is_same(scales.subspan(at, 1), before.subspan(at, 1))) return;
    const float* x = workspace_.residual.row(row);
    float* y = output.row(row);
    double mean = 0;
    for (int64_t i = 0; i < config_.hidden_size; ++i) mean += x[i];
    mean /= config_.hidden_size;
    const double scale = scales[at];
    for (int64_t i = 0; i < config_.hidden_size; ++i)
      y[i] = static_cast<float>((x[i] - mean) / scale * norm.weight[i] + norm.bias[i]);
  });
}

void InspectedPass::attention(const std::string& prefix, const LayerWeights& layer) {
  const std::string name = prefix + "attn.";
  const Activations& projected = workspace_.query_key_value;
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
  const bool is_changed = inspect_scores(name);
  attend();
  if (is_changed) weigh_values();
  show(name + "hook_z", heads_view(weighted.row(0), weighted.stride(), head_dim_));
  linear(layer.dense, weighted, workspace_.attention_output.row(0), workspace_.attention_output.stride());
  show(prefix + "hook_attn_out", rows_view(workspace_.attention_output, config_.hidden_size));
}

void InspectedPass::rotate() {
  for_each_row([&](int64_t row) {
    const float* cos = rotary_.cos(num_past_ + row);
    const float* sin = rotary_.sin(num_past_ + row);
    float* query = workspace_.query_key_value.row(row);
    for (int64_t head = 0; head < num_heads_; ++head, query += 3 * head_dim_) {
      kernels_.rotary(query, cos, sin, rotary_.half());
      kernels_.rotary(query + head_dim_, cos, sin, rotary_.half());
    }
  });
}

void InspectedPass::store_keys_values() {
  const Activations& projected = workspace_.query_key_value;
  for_each(num_heads_, [&](int64_t head) {
    const float* keys = projected.row(0) + (3 * head + 1) * head_dim_;
    kernels_.store_keys_values({.keys = keys,
                                .values = keys + head_dim_,
                                .stride = projected.stride(),
                                .num_positions = num_tokens_,
                                .first_position = num_past_,
                                .head_dim = head_dim_,
                                .cache = cache_.head(cache_layer_, head)});
  });
}

// Shows scores and pattern where they are wanted. Returns whether one was changed: then pattern_ is what to weigh values by, in
// the rows that is_changed_ has.
bool InspectedPass::inspect_scores(const std::string& prefix) {
  const std::string scores_name = prefix + "hook_attn_scores", pattern_name = prefix + "hook_pattern";
  const bool wants_scores = inspector_.wants(scores_name), wants_pattern = inspector_.wants(pattern_name);
  if (!wants_scores && !wants_pattern) return false;
  const int64_t num_rows = num_heads_ * num_tokens_;
  pattern_.reserve(num_rows * num_keys_);
  is_changed_.assign(static_cast<std::size_t>(num_rows), 0);
  for_each(num_heads_, [&](int64_t head) { compute_scores(head, pattern_.data() + head * num_tokens_ * num_keys_); });
  const bool changed_scores = wants_scores && show_rows(scores_name);
  if (changed_scores || wants_pattern) for_each(num_rows, [&](int64_t row) { softmax_row(kernels_, pattern_row(row)); });
  const bool changed_pattern = wants_pattern && show_rows(pattern_name);
  return changed_scores || changed_pattern;
}

std::span<float> InspectedPass::pattern_row(int64_t row) const {
  return {pattern_.data() + row * num_keys_, static_cast<std::size_t>(num_keys_)};
}

// Shows what is in pattern_, and marks the rows that come back changed. Returns whether there are any.
bool InspectedPass::show_rows(const std::string& name) {
  const int64_t shape[] = {num_heads_, num_tokens_, num_keys_}, num_rows = num_heads_ * num_tokens_;
  const auto checksum = [&](int64_t row) { return checksum64(pattern_row(row).data(), pattern_row(row).size_bytes()); };
  row_checksums_.resize(static_cast<std::size_t>(num_rows));
  for_each(num_rows, [&](int64_t row) { row_checksums_[static_cast<std::size_t>(row)] = checksum(row); });
  if (!inspector_.visit(name, shape, {pattern_.data(), static_cast<std::size_t>(num_rows * num_keys_)})) return false;
  for_each(num_rows, [&](int64_t row) {
    const auto at = static_cast<std::size_t>(row);
    is_changed_[at] |= static_cast<uint8_t>(row_checksums_[at] != checksum(row));
  });
  return true;
}

void InspectedPass::compute_scores(int64_t head, float* scores) {
  AttentionArgs args = attention_args(head);
  args.out = scores;
  args.out_stride = num_keys_;
  kernels_.attention_scores(args);
  for (int64_t query = 0; query < num_tokens_; ++query, scores += num_keys_)
    std::fill(scores + num_past_ + query + 1, scores + num_keys_, -std::numeric_limits<float>::infinity());
}

// attention = pattern v, where the pattern is not what it was: the other rows keep what attend() made of them. The values are
// those before they were stored, or of earlier tokens those of the cache.
void InspectedPass::weigh_values() {
  const int64_t stride = round_up(head_dim_, kPanelWidth);
  const Activations& projected = workspace_.query_key_value;
  values_.reserve(num_heads_ * num_keys_ * stride);
  for_each(num_heads_, [&](int64_t head) {
    float* packed = values_.data() + head * num_keys_ * stride;
    const KvHead kept = cache_.head(cache_layer_, head);
    for (int64_t position = 0; position < num_keys_; ++position) {
      const int64_t row = position - num_past_;
      const float* value = row < 0 ? nullptr : projected.row(row) + (3 * head + 2) * head_dim_;
      for (int64_t d = 0; d < stride; ++d)
        packed[(d / kPanelWidth * num_keys_ + position) * kPanelWidth + d % kPanelWidth] =
            d >= head_dim_ ? 0.0f
            : value        ? value[d]
                           : stored_value(kept, position, d, stride);
    }
    const uint8_t* is_changed = is_changed_.data() + head * num_tokens_;
    for (int64_t begin = 0, end; begin < num_tokens_; begin = end) {
      for (end = begin + 1; end < num_tokens_ && is_changed[end] == is_changed[begin]; ++end) continue;
      if (!is_changed[begin]) continue;
      kernels_.matmul(
          {.weights = {.data = reinterpret_cast<const std::byte*>(packed), .outputs = head_dim_, .inputs = num_keys_},
           .panel_end = num_panels(head_dim_),
           .num_rows = end - begin,
           .x = pattern_row(head * num_tokens_ + begin).data(),
           .x_stride = num_keys_,
           .quantized_x = {},
           .y = workspace_.attention.row(begin) + head * head_dim_,
           .y_stride = workspace_.attention.stride()});
    }
  });
}

AttentionArgs InspectedPass::attention_args(int64_t head) {
  return {.queries = workspace_.query_key_value.row(0) + 3 * head * head_dim_,
          .queries_stride = workspace_.query_key_value.stride(),
          .num_queries = num_tokens_,
          .first_position = num_past_,
          .cache = cache_.head(cache_layer_, head),
          .head_dim = head_dim_,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim_)),
          .out = workspace_.attention.row(0) + head * head_dim_,
          .out_stride = workspace_.attention.stride(),
          .scratch = workspace_.scratch.data() + head * workspace_.scratch_floats};
}

void InspectedPass::attend() {
  for_each(num_heads_, [&](int64_t head) { kernels_.attention(attention_args(head)); });
}

void InspectedPass::mlp(const std::string& prefix, const LayerWeights& layer) {
  const Activations& inner = workspace_.intermediate;
  const View view = rows_view(inner, config_.intermediate_size);
  normalize(prefix + "ln2.", layer.post_attention_layernorm, workspace_.mlp_input);
  linear(layer.dense_h_to_4h, workspace_.mlp_input, inner.row(0), inner.stride());
  show(prefix + "mlp.hook_pre", view);
  for_each_row([&](int64_t row) { kernels_.activation(config_.hidden_act, inner.row(row), config_.intermediate_size); });
  show(prefix + "mlp.hook_post", view);
  linear(layer.dense_4h_to_h, inner, workspace_.mlp_output.row(0), workspace_.mlp_output.stride());
  show(prefix + "hook_mlp_out", rows_view(workspace_.mlp_output, config_.hidden_size));
}

void InspectedPass::add(const Activations& update, const Activations& to) {
  for_each_row([&](int64_t row) { kernels_.add(update.row(row), to.row(row), config_.hidden_size, to.row(row)); });
}

void InspectedPass::linear(const LinearWeights& weights, const Activations& input, float* output, int64_t output_stride,
                           int64_t first_row) {
  const bool quantized = quantizes(weights);
  const int64_t num_rows = num_tokens_ - first_row;
  const auto run = [&](Team& team) {
    if (quantized)
      team.for_each(num_rows, [&](int64_t row) { input.quantize(kernels_, first_row + row, 0, weights.weight.inputs); });
    const Tiling tiling(weights.weight.outputs, num_rows, team.size());
    team.for_each(tiling.size(), [&](int64_t i) {
      const Tile tile = tiling[i];
      kernels_.matmul({.weights = weights.weight,
                       .panel_begin = tile.panel_begin,
                       .panel_end = tile.panel_end,
                       .num_rows = tile.num_rows(),
                       .x = input.row(first_row + tile.row_begin),
                       .x_stride = input.stride(),
                       .quantized_x = quantized ? input.quantized(first_row + tile.row_begin) : QuantizedRows{},
                       .bias = weights.bias,
                       .y = output + tile.row_begin * output_stride,
                       .y_stride = output_stride});
    });
  };
  run_job_(run, max_threads(num_rows * weights.weight.outputs * weights.weight.inputs));
}

}  // namespace pythia
