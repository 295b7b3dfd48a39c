// A GPT-NeoX model's hyperparameters, as every layer above the file format uses them.
#pragma once

#include <cstdint>
#include <iterator>

namespace pythia {

// Values are stored in files: never renumber. Other names of them are listed in python/pythia_cpu/_config.py.
enum class Activation : uint32_t {
  kGelu = 0,       // x * Phi(x) with erf            (transformers GELUActivation)
  kGeluTanh = 1,   // tanh approximation             (NewGELUActivation, PytorchGELUTanh, FastGELUActivation)
  kRelu = 2,       // max(x, 0)
  kSilu = 3,       // x * sigmoid(x)                 (SiLU, "swish")
  kQuickGelu = 4,  // x * sigmoid(1.702 x)           (QuickGELUActivation)
};
inline constexpr const char* kActivationNames[] = {"gelu", "gelu_new", "relu", "silu", "quick_gelu"};  // transformers' ACT2FN
inline constexpr uint32_t kNumActivations = std::size(kActivationNames);

constexpr const char* name_of(Activation activation) { return kActivationNames[static_cast<uint32_t>(activation)]; }

// transformers' GPTNeoXConfig, with rotary_ndims = int(head_dim * rotary_pct) and head_dim = hidden_size / num_attention_heads.
struct Config {
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_hidden_layers = 0;
  int32_t num_attention_heads = 0;
  int32_t intermediate_size = 0;
  int32_t max_position_embeddings = 0;
  int32_t rotary_ndims = 0;  // even, 0..head_dim
  int32_t bos_token_id = 0;  // -1: none
  int32_t eos_token_id = 0;  // -1: none
  Activation hidden_act = Activation::kGelu;
  bool use_parallel_residual = true;
  bool tie_word_embeddings = false;
  bool attention_bias = true;  // biases of query_key_value and attention.dense
  double rotary_emb_base = 10000.0;
  double layer_norm_eps = 1e-5;

  int32_t head_dim() const { return hidden_size / num_attention_heads; }
};

}  // namespace pythia
