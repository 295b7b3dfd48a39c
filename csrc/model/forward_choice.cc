// The head of a pass where each chunk of logits is searched while it is in cache: for the most likely tokens only, so that the
// logits are dropped, or for the maxima that a sampler needs.
#include <algorithm>

#include "model/forward.h"

namespace pythia {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kLogitsPerLine = kAlignment / static_cast<int64_t>(sizeof(float));
constexpr int64_t kBlocks = kLogitChunk / kScoreBlock;
static_assert(kLogitChunk % kScoreBlock == 0);

}  // namespace

template <class Body>
void ForwardPass::for_each_chunk(Team& team, int64_t input_row, float* all, const Body& body) const noexcept {
  const int64_t vocab_size = config_.vocab_size;
  const int64_t chunks = ceil_div(vocab_size, kLogitChunk), blocks = ceil_div(num_logits_, kScoreRows);
  // Single rows take several chunks at a time, as long as there are tasks for all threads.
  const int64_t together = num_logits_ > 1 ? 1 : std::max<int64_t>(1, chunks / (kTasksPerThread * team.size()));
  float* const own = workspace_.tasks.logits(team.rank());
  team.for_each_at_end(ceil_div(chunks, together) * blocks, head_order_, [&](int64_t i) {
    const int64_t begin = i % blocks * kScoreRows, rows = std::min(kScoreRows, num_logits_ - begin);
    const int64_t first_chunk = i / blocks * together, end_chunk = std::min(chunks, first_chunk + together);
    for (int64_t chunk = first_chunk; chunk < end_chunk; ++chunk) {
      const int64_t first = chunk * kLogitChunk;
      const LinearWeights part = outputs_of(weights_.embed_out, first, first + kLogitChunk);
      float* const logits = all ? all + begin * vocab_size + first : own;
      const int64_t stride = all ? vocab_size : kLogitChunk;
      // Logits that stay left the cache when the weights came through it: their lines are asked for before they are needed.
      if (all && num_logits_ == 1)
        for (int64_t k = 0; k < part.weight.outputs; k += kLogitsPerLine) __builtin_prefetch(logits + k, 1);
      matmul(part, workspace_.head_input, input_row + begin, rows, {logits, stride});
      for (int64_t row = 0; row < rows; ++row) body(begin + row, first, part.weight.outputs, logits + row * stride);
    }
  });
}

void ForwardPass::logits_and_maxima(Team& team, int64_t input_row) const noexcept {
  for_each_chunk(team, input_row, output_.logits, [&](int64_t row, int64_t first, int64_t n, const float* logits) {
    output_.maxima.from_row(row, config_.vocab_size).update(kernels_, logits, first, n);
  });
}

void ForwardPass::choose(Team& team, int64_t input_row) const noexcept {
  GreedyChoice* own = workspace_.scores.choices(team.rank(), num_logits_);
  std::fill_n(own, num_logits_, GreedyChoice());
  for_each_chunk(team, input_row, nullptr, [&](int64_t row, int64_t first, int64_t n, const float* logits) {
    float maxima[kBlocks];
    kernels_.block_maxima(logits, n, maxima, nullptr);
    own[row].see(kernels_, logits, first, n, *std::max_element(maxima, maxima + ceil_div(n, kScoreBlock)));
  });
}

void ForwardPass::finish(int threads) const noexcept {
  if (output_.choices == nullptr) return;
  for (int64_t row = 0; row < num_logits_; ++row) output_.choices[row] = workspace_.scores.choice(row, num_logits_, threads);
}

}  // namespace pythia
