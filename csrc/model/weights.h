// The tensors of an open file under the names the forward pass uses. Views only: nothing is copied.
#pragma once

#include <algorithm>
#include <vector>

#include "format/reader.h"
#include "kernels/kernels.h"

namespace pythia {

// torch.nn.LayerNorm: weight and bias [hidden_size].
struct LayerNormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

// torch.nn.Linear: weight [outputs, inputs], bias [outputs] or null.
struct LinearWeights {
  PackedMatrix weight;
  const float* bias = nullptr;
};

// The outputs [begin, end) of a linear layer, or up to its last one; `begin` is a multiple of kPanelWidth.
inline LinearWeights outputs_of(LinearWeights linear, int64_t begin, int64_t end) {
  linear.weight.data += begin / kPanelWidth * panel_size_bytes(linear.weight.format, linear.weight.inputs);
  linear.weight.outputs = std::min<int64_t>(end, linear.weight.outputs) - begin;
  if (linear.bias) linear.bias += begin;
  return linear;
}

// Whether its matmul reads int8 activations.
inline bool quantizes(const LinearWeights& linear) {
  return find_weight_format(static_cast<uint32_t>(linear.weight.format))->quantized_activations;
}

// transformers GPTNeoXLayer.
struct LayerWeights {
  LayerNormWeights input_layernorm;
  LayerNormWeights post_attention_layernorm;
  LinearWeights query_key_value;  // outputs [head][q, k, v][head_dim]
  LinearWeights dense;
  LinearWeights dense_h_to_4h;
  LinearWeights dense_4h_to_h;
};

struct ModelWeights {
  WeightFormat embed_format = WeightFormat::kF32;
  const std::byte* embed_in = nullptr;  // [vocab_size, hidden_size] in embed_format
  std::vector<LayerWeights> layers;
  LayerNormWeights final_layer_norm;
  LinearWeights embed_out;

  // Binds the tensors of `file`, which must outlive the result. Throws FormatError if one is missing.
  static ModelWeights bind(const PcpuFile& file);
};

}  // namespace pythia
