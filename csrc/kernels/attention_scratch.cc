#include "kernels/attention_scratch.h"

#include "kernels/kernels.h"

namespace pythia {

int64_t attention_scratch_floats(int64_t head_dim) noexcept {
  // Scores; weighted values, of a chunk and merged; int16 codes of queries.
  const int64_t value_stride = round_up(head_dim, kPanelWidth);
  return kQueryBlock * (kAttentionChunk + 2 * value_stride + value_stride / 2);
}

}  // namespace pythia
