// Runs a model over parts of sequences and chooses the tokens that follow.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "common/aligned_buffer.h"
#include "generate/sampler.h"
#include "generate/sequence.h"
#include "model/model.h"

namespace pythia {

// One sequence's part of a pass.
struct PassPart {
  SequenceSlice slice;
  Sequence* sequence = nullptr;         // whose options hold
  TokenHistory* history = nullptr;      // gets the chosen tokens; null if the options have no penalties
  int64_t first_step = 0;               // of the draws
  int64_t num_logprobs = -1;            // as in GenerationRequest
  std::span<const int32_t> expected{};  // the tokens read after the first row with logits
  std::vector<ChosenToken> chosen{};    // the result: up to the first that is not the expected one, or kNoToken; at least one
};

// One user at a time.
class TokenChooser {
 public:
  // An inspector sees the activations of all parts (Model::inspect), each under its request's number.
  explicit TokenChooser(std::shared_ptr<Model> model, std::shared_ptr<Inspector> inspector = nullptr);
  ~TokenChooser();

  const Model& model() const { return *model_; }

  // Appends the slices to their caches and chooses tokens for the rows with logits. If all take the largest logit, the logits
  // never exist; otherwise the model's threads share the parts, or the rows of a part that is alone. The choice does not depend
  // on the other parts.
  // Throws what Model::forward, or Model::inspect, throws; then the caches may have grown.
  void run(std::span<PassPart> parts);

 private:
  struct Scratch;
  void take_largest(std::span<PassPart> parts, int64_t num_rows);
  void sample(std::span<PassPart> parts, int64_t num_rows);
  void compute_logits(std::span<const PassPart> parts, int64_t num_rows);
  void sample_part(PassPart& part, int64_t first_row, Scratch& scratch, const ParallelFor* parallel_for) const;
  std::unique_ptr<Scratch> take_scratch();
  void return_scratch(std::unique_ptr<Scratch> scratch);

  std::shared_ptr<Model> model_;
  std::shared_ptr<Inspector> inspector_;
  const KernelTable& kernels_;
  std::vector<SequenceSlice> slices_;
  std::vector<GreedyChoice> choices_;
  AlignedBuffer<float> logits_;  // [rows with logits, vocab_size]
  AlignedBuffer<float> block_maxima_, group_maxima_;
  ScoreMaxima maxima_;  // of the logits, or none
  std::mutex scratch_mutex_;
  std::vector<std::unique_ptr<Scratch>> scratch_;  // not in use
};

}  // namespace pythia
