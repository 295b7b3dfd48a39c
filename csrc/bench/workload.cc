#include "bench/workload.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "bench/stopwatch.h"
#include "common/aligned_buffer.h"
#include "format/tensor_names.h"
#include "generate/generator.h"
#include "generate/philox.h"

namespace pythia {
namespace {

Timing time_repetitions(
    int64_t tokens, int64_t logit_rows, int64_t repetitions, const std::function<void()>& run,
    const std::function<void()>& between = [] {}) {
  Timing timing{tokens, logit_rows, {}};
  run();  // threads, caches and memory come to rest
  for (int64_t i = 0; i < repetitions; ++i) {
    between();
    const Stopwatch watch;
    run();
    timing.seconds.push_back(watch.seconds());
  }
  between();
  return timing;
}

void check_context(const Model& model, std::string_view what, int64_t tokens) {
  if (tokens > model.config().max_position_embeddings)
    throw std::invalid_argument("[bench] " + std::string(what) + " of " + std::to_string(tokens) +
                                " tokens do not fit the model's context of " +
                                std::to_string(model.config().max_position_embeddings) + "; ask for fewer");
}

// The same tokens in every run, over the whole vocabulary.
std::vector<int32_t> random_tokens(const Model& model, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = philox4x32_10({static_cast<uint32_t>(i), 0, 0, 0}, {0, 0})[0];
    tokens.push_back(static_cast<int32_t>(bits % static_cast<uint32_t>(model.config().vocab_size)));
  }
  return tokens;
}

}  // namespace

MatmulCost matmul_cost(const PcpuFile& file) {
  namespace names = tensor_names;
  const int64_t last = file.config().num_hidden_layers - 1;
  MatmulCost cost;
  for (const TensorRecord& tensor : file.tensors()) {
    if (static_cast<Layout>(tensor.layout) != Layout::kPanels) continue;
    const std::string_view name = tensor.name;
    const auto all = static_cast<int64_t>(2 * tensor.rows * tensor.cols);
    const bool with_logits = name == names::weight(names::kEmbedOut) || name.starts_with(names::layer_prefix(last));
    const int64_t keys_values = name == names::weight(names::in_layer(last, names::kQueryKeyValue)) ? all / 3 * 2 : 0;
    cost.token_operations += with_logits ? keys_values : all;
    cost.logit_operations += with_logits ? all - keys_values : 0;
    cost.size_bytes += static_cast<int64_t>(tensor.size_bytes);
  }
  return cost;
}

std::size_t Timing::best() const { return static_cast<std::size_t>(std::ranges::min_element(seconds) - seconds.begin()); }

double Timing::matmul_operations_per_second(const MatmulCost& cost) const {
  return static_cast<double>(tokens * cost.token_operations + logit_rows * cost.logit_operations) / best_seconds();
}

double Timing::weight_bytes_per_second(const MatmulCost& cost) const {
  return tokens_per_second() * static_cast<double>(cost.size_bytes);
}

Timing time_prefill(Model& model, int64_t tokens, int64_t repetitions) {
  check_context(model, "prompts", tokens);
  const std::vector<int32_t> prompt = random_tokens(model, tokens);
  KvCache cache(model.kv_layout(), tokens);
  AlignedBuffer<float> logits(model.config().vocab_size);
  return time_repetitions(tokens, 1, repetitions, [&] {
    cache.truncate(0);
    const SequenceSlice slice{&cache, prompt, 1};
    model.forward({&slice, 1}, logits.data());
  });
}

Timing time_decode(const std::shared_ptr<Model>& model, int64_t tokens, int64_t repetitions,
                   const std::function<void()>& between) {
  check_context(*model, "texts", tokens);  // the last token is not read again
  const auto tokenizer = std::make_shared<const Tokenizer>(model->file().tokenizer());
  const std::vector<int32_t> prompt = random_tokens(*model, 1);
  return time_repetitions(
      tokens, tokens, repetitions,
      [&] {
        Generator generator(model, tokenizer);
        GenerationRequest request;
        request.prompt = prompt;
        request.max_new_tokens = tokens;
        generator.add(std::move(request));
        while (!generator.done()) generator.step();
      },
      between);
}

Timing time_scoring(Model& model, int64_t sequences, int64_t tokens, int64_t repetitions) {
  check_context(model, "texts", tokens);
  const std::vector<int32_t> text = random_tokens(model, tokens + 1);
  KvCache cache(model.kv_layout(), tokens);
  const std::span<const int32_t> inputs(text.data(), text.size() - 1), targets(text.data() + 1, text.size() - 1);
  std::vector<TokenScore> scores(inputs.size());
  const int64_t all_tokens = sequences * tokens;
  return time_repetitions(all_tokens, all_tokens, repetitions, [&] {
    for (int64_t sequence = 0; sequence < sequences; ++sequence) {
      cache.truncate(0);
      const SequenceSlice slice{&cache, inputs, tokens};
      model.score({&slice, 1}, targets, scores.data());
    }
  });
}

}  // namespace pythia
