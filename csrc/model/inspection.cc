#include "model/inspection.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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
                             const RotaryTable& rotary, bool quantized, std::span<const SequenceSlice> slices, RunJob run_job,
                             Inspector& inspector)
    : config_(config),
      weights_(weights),
      kernels_(kernels),
      rotary_(rotary),
      num_heads_(config.num_attention_heads),
      head_dim_(config.head_dim()),
      run_job_(std::move(run_job)),
      inspector_(inspector) {
  const KvLayout one(one_layer(config), quantized ? KvFormat::kI16 : KvFormat::kF32);
  for (const SequenceSlice& slice : slices) {
    const auto count = static_cast<int64_t>(slice.tokens.size()), index = static_cast<int64_t>(sequences_.size());
    if (!slice.cache) own_caches_.push_back(std::make_unique<KvCache>(one, count));
    sequences_.push_back({slice, index, num_rows_, slice.cache ? slice.cache->length() : 0,
                          slice.cache ? slice.cache : own_caches_.back().get()});
    num_rows_ += count;
  }
  query_key_value_.reserve(num_rows_, 3 * config.hidden_size, 0);
  attention_output_.reserve(num_rows_, config.hidden_size, 0);
  mlp_output_.reserve(num_rows_, config.hidden_size, 0);
  workspace_.reserve(config, num_rows_, static_cast<int>(num_heads_),
                     quantized ? quantized_group_bytes(kernels.code_layout) : 0);
}

void InspectedPass::run(float* logits) {
  const int64_t num_layers = config_.num_hidden_layers, first_layer = begin();
  const bool has_logits = std::ranges::any_of(sequences_, [](const Sequence& s) { return s.slice.num_logits > 0; });
  const int64_t num_needed = own_caches_.size() < sequences_.size() ? num_layers : 0;  // a cache wants those of all layers
  const int64_t num_wanted = has_logits ? num_layers + 1 : std::max(num_needed, num_layers_wanted());
  for (int64_t index = first_layer; index < std::min(num_wanted, num_layers); ++index) layer(index);
  if (num_wanted > num_layers) normalize("ln_final.", weights_.final_layer_norm, workspace_.head_input);
  head(logits);
  if (has_logits && inspector_.wants(kLogitsName)) show_logits(logits);
}

// Makes the first residual stream that is needed; returns the layer that reads it.
int64_t InspectedPass::begin() {
  const View residual = rows_view(workspace_.residual, config_.hidden_size);
  const std::string replaced = own_caches_.size() < sequences_.size() ? "" : inspector_.replaced_residual();
  for (int64_t index = 0; index < config_.num_hidden_layers && !replaced.empty(); ++index) {
    const bool is_post = replaced == block_prefix(index) + "hook_resid_post";
    if (!is_post && replaced != block_prefix(index) + "hook_resid_pre") continue;
    for_each_row([&](int64_t row) { std::fill_n(workspace_.residual.row(row), config_.hidden_size, 0.0f); });
    if (is_post) show(replaced, residual);
    return is_post ? index + 1 : index;
  }
  embed();
  show("hook_embed", residual);
  return 0;
}

void InspectedPass::show_logits(float* logits) {
  for (const Sequence& sequence : sequences_) {
    const int64_t shape[] = {sequence.slice.num_logits, config_.vocab_size}, size = shape[0] * shape[1];
    if (size > 0) inspector_.visit(sequence.index, kLogitsName, shape, {logits, static_cast<std::size_t>(size)});
    logits += size;
  }
}

void InspectedPass::unembed(const float* residuals, float* logits) {
  for_each_row([&](int64_t row) {
    std::copy_n(residuals + row * config_.hidden_size, config_.hidden_size, workspace_.residual.row(row));
  });
  normalize("ln_final.", weights_.final_layer_norm, workspace_.head_input);
  head(logits);
}

// Rows with logits that follow each other go together.
void InspectedPass::head(float* logits) {
  int64_t begin = 0, end = 0;
  const auto flush = [&] {
    if (begin < end) linear(weights_.embed_out, workspace_.head_input, begin, end - begin, logits, config_.vocab_size);
    logits += (end - begin) * config_.vocab_size;
  };
  for (const Sequence& sequence : sequences_) {
    const int64_t last = sequence.first_row + sequence.num_tokens(), first = last - sequence.slice.num_logits;
    if (first != end) {
      flush();
      begin = first;
    }
    end = last;
  }
  flush();
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
  return {rows.row(0), rows.stride(), 1, 0, columns, {0, columns}};
}

InspectedPass::View InspectedPass::heads_view(float* data, int64_t row_stride, int64_t head_stride) const {
  return {data, row_stride, num_heads_, head_stride, head_dim_, {0, num_heads_, head_dim_}};
}

InspectedPass::View InspectedPass::part_view(int64_t part) const {
  const Activations& all = query_key_value_;
  return heads_view(all.row(0) + part * head_dim_, all.stride(), 3 * head_dim_);
}

void InspectedPass::show(const std::string& name, const View& view) {
  if (!inspector_.wants(name)) return;
  std::vector<int64_t> shape = view.shape;
  for (const Sequence& sequence : sequences_) {
    const int64_t size = sequence.num_tokens() * view.groups * view.columns;
    staging_.reserve(size);
    const auto copy = [&](auto copy_columns) {
      float* packed = staging_.data();
      float* data = view.data + sequence.first_row * view.row_stride;
      for (int64_t row = 0; row < sequence.num_tokens(); ++row, data += view.row_stride)
        for (int64_t group = 0; group < view.groups; ++group, packed += view.columns)
          copy_columns(data + group * view.group_stride, packed);
    };
    copy([&](const float* in_place, float* packed) { std::copy_n(in_place, view.columns, packed); });
    shape[0] = sequence.num_tokens();
    if (inspector_.visit(sequence.index, name, shape, {staging_.data(), static_cast<std::size_t>(size)}))
      copy([&](float* in_place, const float* packed) { std::copy_n(packed, view.columns, in_place); });
  }
}

void InspectedPass::for_each(int64_t num_tasks, int64_t multiply_adds, const std::function<void(int64_t)>& task) {
  run_job_([&](Team& team) { team.for_each(num_tasks, task); }, max_threads(multiply_adds));
}

void InspectedPass::for_each_row(const std::function<void(int64_t)>& body) {
  run_job_([&](Team& team) { team.for_each(num_rows_, body); }, 1);
}

void InspectedPass::embed() {
  const int64_t row_bytes = config_.hidden_size * element_size_bytes(weights_.embed_format);
  for (const Sequence& sequence : sequences_) {
    run_job_(
        [&](Team& team) {
          team.for_each(sequence.num_tokens(), [&](int64_t i) {
            kernels_.to_float(weights_.embed_format,
                              weights_.embed_in + sequence.slice.tokens[static_cast<std::size_t>(i)] * row_bytes,
                              config_.hidden_size, workspace_.residual.row(sequence.first_row + i));
          });
        },
        1);
  }
}

// The residual stream is added to in the order of ForwardPass: (mlp + attention) + residual where both halves read the same.
void InspectedPass::layer(int64_t index) {
  const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
  const std::string prefix = block_prefix(index);
  layer_ = index;
  const View residual = rows_view(workspace_.residual, config_.hidden_size);
  show(prefix + "hook_resid_pre", residual);
  attention(prefix, layer);
  if (!config_.use_parallel_residual) {
    add(attention_output_, workspace_.residual);
    show(prefix + "hook_resid_mid", residual);
  }
  mlp(prefix, layer);
  if (config_.use_parallel_residual) add(attention_output_, mlp_output_);
  add(mlp_output_, workspace_.residual);
  show(prefix + "hook_resid_post", residual);
}

void InspectedPass::normalize(const std::string& prefix, const LayerNormWeights& norm, const Activations& output) {
  for_each_row([&](int64_t row) {
    const float eps = static_cast<float>(config_.layer_norm_eps);
    kernels_.layer_norm(workspace_.residual.row(row), norm.weight, norm.bias, config_.hidden_size, eps, output.row(row));
  });
  if (inspector_.wants(prefix + "hook_scale")) show_scales(prefix + "hook_scale", norm, output);
  show(prefix + "hook_normalized", rows_view(output, config_.hidden_size));
}

void InspectedPass::show_scales(const std::string& name, const LayerNormWeights& norm, const Activations& output) {
  std::vector<float> all(static_cast<std::size_t>(num_rows_));
  for_each_row([&](int64_t row) {
    const std::span<const float> x(workspace_.residual.row(row), static_cast<std::size_t>(config_.hidden_size));
    double mean = 0, variance = 0;
    for (const float value : x) mean += value;
    mean /= static_cast<double>(x.size());
    for (const float value : x) variance += (value - mean) * (value - mean);
    variance /= static_cast<double>(x.size());
    all[static_cast<std::size_t>(row)] = static_cast<float>(std::sqrt(variance + config_.layer_norm_eps));
  });
  const std::vector<float> before = all;
  for (const Sequence& sequence : sequences_) {
    const int64_t shape[] = {sequence.num_tokens(), 1};
    const auto first = static_cast<std::size_t>(sequence.first_row), count = sequence.slice.tokens.size();
    const std::span<float> scales = std::span(all).subspan(first, count);
    if (inspector_.visit(sequence.index, name, shape, scales))
      normalize_by(scales, std::span(before).subspan(first, count), sequence.first_row, norm, output);
  }
}

// A LayerNorm that divides by given scales, of the rows where they are not as before.
void InspectedPass::normalize_by(std::span<const float> scales, std::span<const float> before, int64_t first_row,
                                 const LayerNormWeights& norm, const Activations& output) {
  const auto normalize_row = [&](int64_t row) {
    const auto at = static_cast<std::size_t>(row);
    if (is_same(scales.subspan(at, 1), before.subspan(at, 1))) return;
    const float* x = workspace_.residual.row(first_row + row);
    float* y = output.row(first_row + row);
    double mean = 0;
    for (int64_t i = 0; i < config_.hidden_size; ++i) mean += x[i];
    mean /= config_.hidden_size;
    const double scale = scales[at];
    for (int64_t i = 0; i < config_.hidden_size; ++i)
      y[i] = static_cast<float>((x[i] - mean) / scale * norm.weight[i] + norm.bias[i]);
  };
  const auto num_rows = static_cast<int64_t>(scales.size());
  for_each(num_rows, num_rows * config_.hidden_size, normalize_row);
}

void InspectedPass::mlp(const std::string& prefix, const LayerWeights& layer) {
  const Activations& inner = workspace_.intermediate;
  const View view = rows_view(inner, config_.intermediate_size);
  normalize(prefix + "ln2.", layer.post_attention_layernorm, workspace_.mlp_input);
  linear(layer.dense_h_to_4h, workspace_.mlp_input, inner.row(0), inner.stride());
  show(prefix + "mlp.hook_pre", view);
  for_each_row([&](int64_t row) { kernels_.activation(config_.hidden_act, inner.row(row), config_.intermediate_size); });
  show(prefix + "mlp.hook_post", view);
  linear(layer.dense_4h_to_h, inner, mlp_output_.row(0), mlp_output_.stride());
  show(prefix + "hook_mlp_out", rows_view(mlp_output_, config_.hidden_size));
}

void InspectedPass::add(const Activations& update, const Activations& to) {
  for_each_row([&](int64_t row) { kernels_.add(update.row(row), to.row(row), config_.hidden_size, to.row(row)); });
}

void InspectedPass::linear(const LinearWeights& weights, const Activations& input, float* output, int64_t output_stride) {
  linear(weights, input, 0, num_rows_, output, output_stride);
}

// Output row 0 is that of input row first_row.
void InspectedPass::linear(const LinearWeights& weights, const Activations& input, int64_t first_row, int64_t num_rows,
                           float* output, int64_t output_stride) {
  const bool quantized = quantizes(weights);
  const auto run = [&](Team& team) {
    if (quantized)
      team.for_each(num_rows, [&](int64_t row) {
        input.quantize(kernels_, first_row + row, 0, weights.weight.inputs, input.row(first_row + row));
      });
    const Tiling tiling(weights.weight.outputs, num_rows, team.size());
    team.for_each(tiling.size(), [&](int64_t i) {
      const Tile tile = tiling[i];
      kernels_.matmul({.weights = weights.weight,
                       .panel_begin = tile.begin / kPanelWidth,
                       .panel_end = num_panels(tile.end),
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
