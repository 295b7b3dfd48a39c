// Rotary position embedding tables (Su et al. 2021, arXiv:2104.09864; transformers GPTNeoXRotaryEmbedding).
#pragma once

#include <cstdint>

#include "common/aligned_buffer.h"
#include "format/config.h"

namespace pythia {

// cos and sin of position * inv_freq[i], float32 [max_position_embeddings, rotary_ndims / 2]. As in transformers the inverse
// frequencies and the angles are rounded to float32; sine and cosine are then taken in double by our own routine.
class RotaryTable {
 public:
  explicit RotaryTable(const Config& config);

  int64_t half() const { return half_; }  // rotary_ndims / 2
  const float* cos(int64_t position) const { return table_.data() + position * 2 * half_; }
  const float* sin(int64_t position) const { return cos(position) + half_; }

 private:
  int64_t half_;
  AlignedBuffer<float> table_;  // [position][cos, sin][half]
};

}  // namespace pythia
