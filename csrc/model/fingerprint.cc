#include "model/fingerprint.h"

#include <algorithm>

#include "format/pcpu_format.h"

namespace pythia {

std::vector<int32_t> fingerprint_prompt(const Config& config) {
  std::vector<int32_t> tokens(static_cast<std::size_t>(std::min<int64_t>(kFingerprintTokens, config.max_position_embeddings)));
  uint32_t mixed = 0;  // multiples of 2^32 / golden ratio: spread over any vocabulary
  for (int32_t& token : tokens) token = static_cast<int32_t>((mixed += 2654435761u) % static_cast<uint32_t>(config.vocab_size));
  return tokens;
}

uint64_t logits_fingerprint(Model& model) {
  const std::vector<int32_t> tokens = fingerprint_prompt(model.config());
  KvCache cache(model.config(), static_cast<int64_t>(tokens.size()));
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(model.config().vocab_size));
  const SequenceSlice slice = {.cache = &cache, .tokens = tokens, .num_logits = static_cast<int64_t>(tokens.size())};
  model.forward({&slice, 1}, logits.data());
  return std::max<uint64_t>(checksum64(logits.data(), logits.size() * sizeof(float)), 1);
}

}  // namespace pythia
