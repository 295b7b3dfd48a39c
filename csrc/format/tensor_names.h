// The tensors' names in a .pcpu file: those of transformers' GPTNeoXForCausalLM. A module's parameters are `module` + kWeight
// and, where it has one, `module` + kBias.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pythia::tensor_names {

inline constexpr std::string_view kWeight = ".weight";
inline constexpr std::string_view kBias = ".bias";

inline constexpr std::string_view kEmbedIn = "gpt_neox.embed_in";
inline constexpr std::string_view kFinalLayerNorm = "gpt_neox.final_layer_norm";
inline constexpr std::string_view kEmbedOut = "embed_out";

// Modules of a layer.
inline constexpr std::string_view kInputLayerNorm = "input_layernorm";
inline constexpr std::string_view kPostAttentionLayerNorm = "post_attention_layernorm";
inline constexpr std::string_view kQueryKeyValue = "attention.query_key_value";
inline constexpr std::string_view kDense = "attention.dense";
inline constexpr std::string_view kDenseHTo4h = "mlp.dense_h_to_4h";
inline constexpr std::string_view kDense4hToH = "mlp.dense_4h_to_h";

inline std::string weight(std::string_view module) { return std::string(module).append(kWeight); }
inline std::string bias(std::string_view module) { return std::string(module).append(kBias); }

// What the names of layer `index`'s modules begin with; `in_layer` is one of them.
inline std::string layer_prefix(int64_t index) { return "gpt_neox.layers." + std::to_string(index) + "."; }
inline std::string in_layer(int64_t index, std::string_view module) { return layer_prefix(index).append(module); }

}  // namespace pythia::tensor_names
