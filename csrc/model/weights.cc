#include "model/weights.h"

#include <string>

#include "common/errors.h"

namespace pythia {

ModelWeights ModelWeights::bind(const PcpuFile& file) {
  const auto find = [&](const std::string& name) -> const TensorRecord& {
    const TensorRecord* record = file.find(name);
    if (record == nullptr) throw FormatError(file.path() + ": no tensor " + name + "; convert the checkpoint again");
    return *record;
  };
  const auto vector = [&](const std::string& name) { return reinterpret_cast<const float*>(file.data(find(name))); };
  const auto layer_norm = [&](const std::string& name) {
    return LayerNormWeights{vector(name + ".weight"), vector(name + ".bias")};
  };
  const auto linear = [&](const std::string& name, bool bias) {
    const TensorRecord& weight = find(name + ".weight");
    const PackedMatrix matrix{static_cast<WeightFormat>(weight.format), file.data(weight), static_cast<int64_t>(weight.rows),
                              static_cast<int64_t>(weight.cols)};
    return LinearWeights{matrix, bias ? vector(name + ".bias") : nullptr};
  };

  const Config& config = file.config();
  ModelWeights weights;
  const TensorRecord& embed_in = find("gpt_neox.embed_in.weight");
  weights.embed_format = static_cast<WeightFormat>(embed_in.format);
  weights.embed_in = file.data(embed_in);
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "gpt_neox.layers." + std::to_string(i) + ".";
    weights.layers.push_back({layer_norm(layer + "input_layernorm"), layer_norm(layer + "post_attention_layernorm"),
                              linear(layer + "attention.query_key_value", config.attention_bias),
                              linear(layer + "attention.dense", config.attention_bias),
                              linear(layer + "mlp.dense_h_to_4h", true), linear(layer + "mlp.dense_4h_to_h", true)});
  }
  weights.final_layer_norm = layer_norm("gpt_neox.final_layer_norm");
  weights.embed_out = linear("embed_out", false);
  return weights;
}

}  // namespace pythia
