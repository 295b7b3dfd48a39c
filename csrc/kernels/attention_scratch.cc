#include "kernels/attention_scratch.h"

#include "quant/weight_format.h"

namespace pythia {

int64_t attention_scratch_floats(int64_t head_dim) noexcept { return AttentionScratch{round_up(head_dim, kPanelWidth)}.size(); }

}  // namespace pythia
