#include "kernels/attention_scratch.h"

#include "kernels/kernels.h"

namespace pythia {

int64_t attention_scratch_floats(int64_t head_dim) noexcept {
  return kQueryBlock * (kAttentionChunk + 2 * round_up(head_dim, kPanelWidth));
}

}  // namespace pythia
