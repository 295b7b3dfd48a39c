#include "model/weights.h"

#include <string>

#include "common/errors.h"
#include "format/tensor_names.h"

namespace pythia {

ModelWeights ModelWeights::bind(const PcpuFile& file) {
  namespace names = tensor_names;
  const auto find = [&](const std::string& name) -> const TensorRecord& {
    const TensorRecord* record = file.find(name);
    if (record == nullptr) throw FormatError(file.path() + ": no tensor " + name + "; convert the checkpoint again");
    return *record;
  };
  const auto vector = [&](const std::string& name) { return reinterpret_cast<const float*>(file.data(find(name))); };
  const auto layer_norm = [&](std::string_view module) {
    return LayerNormWeights{vector(names::weight(module)), vector(names::bias(module))};
  };
  const auto linear = [&](std::string_view module, bool bias) {
    const TensorRecord& weight = find(names::weight(module));
    const PackedMatrix matrix{static_cast<WeightFormat>(weight.format), file.data(weight), static_cast<int64_t>(weight.rows),
                              static_cast<int64_t>(weight.cols)};
    return LinearWeights{matrix, bias ? vector(names::bias(module)) : nullptr};
  };

  const Config& config = file.config();
  ModelWeights weights;
  const TensorRecord& embed_in = find(names::weight(names::kEmbedIn));
  weights.embed_format = static_cast<WeightFormat>(embed_in.format);
  weights.embed_in = file.data(embed_in);
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const auto in_layer = [i](std::string_view module) { return names::in_layer(i, module); };
    weights.layers.push_back(
        {layer_norm(in_layer(names::kInputLayerNorm)), layer_norm(in_layer(names::kPostAttentionLayerNorm)),
         linear(in_layer(names::kQueryKeyValue), config.attention_bias), linear(in_layer(names::kDense), config.attention_bias),
         linear(in_layer(names::kDenseHTo4h), true), linear(in_layer(names::kDense4hToH), true)});
  }
  weights.final_layer_norm = layer_norm(names::kFinalLayerNorm);
  weights.embed_out = linear(names::kEmbedOut, false);
  return weights;
}

}  // namespace pythia
