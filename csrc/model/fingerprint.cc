#include "model/fingerprint.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "format/pcpu_format.h"
#include "model/inspection.h"

namespace pythia {
namespace {

// A NaN counts as one, whatever its bits: these differ from machine to machine.
uint64_t fingerprint_of(std::vector<float> logits) {
  for (float& logit : logits)
    if (std::isnan(logit)) logit = std::numeric_limits<float>::quiet_NaN();
  return std::max<uint64_t>(checksum64(logits.data(), logits.size() * sizeof(float)), 1);
}

std::vector<float> room_for_logits(const Config& config, const std::vector<int32_t>& tokens) {
  return std::vector<float>(tokens.size() * static_cast<std::size_t>(config.vocab_size));
}

// Gives back the weights' pages at every activation of the pass.
class PageReleaser : public Inspector {
 public:
  explicit PageReleaser(const PcpuFile& file) : file_(file) {}

  bool wants(const std::string&) override {
    file_.release_pages();
    return false;
  }
  bool visit(int64_t, const std::string&, std::span<const int64_t>, std::span<float>) override { return false; }

 private:
  const PcpuFile& file_;
};

}  // namespace

std::vector<int32_t> fingerprint_prompt(const Config& config) {
  std::vector<int32_t> tokens(static_cast<std::size_t>(std::min<int64_t>(kFingerprintTokens, config.max_position_embeddings)));
  uint32_t mixed = 0;  // multiples of 2^32 / golden ratio: spread over any vocabulary
  for (int32_t& token : tokens) token = static_cast<int32_t>((mixed += 2654435761u) % static_cast<uint32_t>(config.vocab_size));
  return tokens;
}

uint64_t logits_fingerprint(Model& model) {
  const std::vector<int32_t> tokens = fingerprint_prompt(model.config());
  KvCache cache(model.kv_layout(), static_cast<int64_t>(tokens.size()));
  std::vector<float> logits = room_for_logits(model.config(), tokens);
  const SequenceSlice slice = {.cache = &cache, .tokens = tokens, .num_logits = static_cast<int64_t>(tokens.size())};
  model.forward({&slice, 1}, logits.data());
  return fingerprint_of(std::move(logits));
}

uint64_t logits_fingerprint_of_file(const std::string& path, int threads) {
  const std::shared_ptr<Model> model = Model::open_releasing_pages(path, threads);
  const std::vector<int32_t> tokens = fingerprint_prompt(model->config());
  std::vector<float> logits = room_for_logits(model->config(), tokens);
  PageReleaser releaser(model->file());
  const SequenceSlice slice = {.tokens = tokens, .num_logits = static_cast<int64_t>(tokens.size())};
  model->inspect({&slice, 1}, releaser, logits.data());
  return fingerprint_of(std::move(logits));
}

}  // namespace pythia
