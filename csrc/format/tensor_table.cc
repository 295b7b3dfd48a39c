// What a .pcpu file must hold for a given config.
#include <cmath>
#include <sstream>

#include "format/pcpu_format.h"
#include "format/tensor_names.h"

namespace pythia {

std::vector<ExpectedTensor> expected_tensors(const Config& config) {
  namespace names = tensor_names;
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t vocab = config.vocab_size;

  std::vector<ExpectedTensor> tensors;
  tensors.reserve(static_cast<std::size_t>(12 * int64_t{config.num_hidden_layers} + 4));
  const auto layer_norm = [&](std::string_view module) {
    tensors.push_back({names::weight(module), Layout::kVector, 1, hidden});
    tensors.push_back({names::bias(module), Layout::kVector, 1, hidden});
  };
  const auto linear = [&](std::string_view module, int64_t outputs, int64_t inputs, bool bias) {
    tensors.push_back({names::weight(module), Layout::kPanels, outputs, inputs});
    if (bias) tensors.push_back({names::bias(module), Layout::kVector, 1, outputs});
  };

  tensors.push_back({names::weight(names::kEmbedIn), Layout::kRows, vocab, hidden});
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const auto in_layer = [i](std::string_view module) { return names::in_layer(i, module); };
    layer_norm(in_layer(names::kInputLayerNorm));
    layer_norm(in_layer(names::kPostAttentionLayerNorm));
    linear(in_layer(names::kQueryKeyValue), 3 * hidden, hidden, config.attention_bias);
    linear(in_layer(names::kDense), hidden, hidden, config.attention_bias);
    linear(in_layer(names::kDenseHTo4h), intermediate, hidden, true);
    linear(in_layer(names::kDense4hToH), hidden, intermediate, true);
  }
  layer_norm(names::kFinalLayerNorm);
  linear(names::kEmbedOut, vocab, hidden, false);
  return tensors;
}

int64_t stored_size_bytes(Layout layout, WeightFormat format, int64_t rows, int64_t cols) {
  if (layout == Layout::kPanels) return packed_size_bytes(format, rows, cols);
  return rows * cols * element_size_bytes(format);
}

bool layout_allows(Layout layout, WeightFormat format) {
  const WeightFormatInfo* info = find_weight_format(static_cast<uint32_t>(format));
  if (info == nullptr) return false;
  if (layout == Layout::kVector) return format == WeightFormat::kF32;
  return layout == Layout::kPanels || info->lossless_container;
}

std::string check_config(const Config& config) {
  const auto outside = [](const char* field, const std::string& value, const std::string& expected) {
    return std::string(field) + " is " + value + ", expected " + expected;
  };
  const auto number = [](double value) {
    std::ostringstream text;
    text << value;
    return text.str();
  };
  const struct {
    const char* field;
    int64_t value, min, max;
  } ranges[] = {
      {"vocab_size", config.vocab_size, 1, kMaxDimension},
      {"hidden_size", config.hidden_size, 1, kMaxDimension},
      {"num_hidden_layers", config.num_hidden_layers, 1, kMaxLayers},
      {"num_attention_heads", config.num_attention_heads, 1, config.hidden_size},
      {"intermediate_size", config.intermediate_size, 1, kMaxDimension},
      {"max_position_embeddings", config.max_position_embeddings, 1, kMaxPositions},
      {"bos_token_id", config.bos_token_id, -1, INT32_MAX},
      {"eos_token_id", config.eos_token_id, -1, INT32_MAX},
      {"hidden_act", static_cast<int64_t>(config.hidden_act), 0, kNumActivations - 1},
  };
  for (const auto& [field, value, min, max] : ranges)
    if (value < min || value > max)
      return outside(field, std::to_string(value), std::to_string(min) + ".." + std::to_string(max));
  if (config.hidden_size % config.num_attention_heads != 0)
    return outside("hidden_size", std::to_string(config.hidden_size),
                   "a multiple of num_attention_heads, " + std::to_string(config.num_attention_heads));
  if (config.rotary_ndims < 0 || config.rotary_ndims > config.head_dim() || config.rotary_ndims % 2 != 0)
    return outside("rotary_ndims", std::to_string(config.rotary_ndims),
                   "an even number up to head_dim, " + std::to_string(config.head_dim()));
  if (const int64_t entries = int64_t{config.max_position_embeddings} * config.rotary_ndims; entries > kMaxRotaryEntries)
    return outside("max_position_embeddings", std::to_string(config.max_position_embeddings),
                   "at most " + std::to_string(kMaxRotaryEntries / config.rotary_ndims) + " with rotary_ndims " +
                       std::to_string(config.rotary_ndims));
  if (!std::isfinite(config.rotary_emb_base) || config.rotary_emb_base < 1)
    return outside("rotary_emb_base", number(config.rotary_emb_base), "a finite number of at least 1");
  if (!std::isfinite(config.layer_norm_eps) || config.layer_norm_eps <= 0)
    return outside("layer_norm_eps", number(config.layer_norm_eps), "a finite number above 0");
  return {};
}

}  // namespace pythia
