// The working set of one attention call, shared by the kernels and their caller.
#pragma once

#include <cstdint>

#include "kernels/kv_head.h"

namespace pythia {

// Queries whose scores against one chunk of keys exist at a time; a multiple of every register tile's rows.
inline constexpr int64_t kQueryBlock = 24;

// The parts of a call's scratch, one behind the other, in floats. Each has a row for each query of a block.
struct AttentionScratch {
  int64_t value_stride;  // head_dim, rounded up to a panel

  static constexpr int64_t scores() { return 0; }                                    // [kQueryBlock][kAttentionChunk]
  constexpr int64_t merged() const { return kQueryBlock * kAttentionChunk; }         // [kQueryBlock][value_stride]
  constexpr int64_t chunk() const { return merged() + kQueryBlock * value_stride; }  // [kQueryBlock][value_stride]
  constexpr int64_t codes() const { return chunk() + kQueryBlock * value_stride; }   // int16 [kQueryBlock][value_stride]
  constexpr int64_t size() const { return codes() + kQueryBlock * value_stride / 2; }
};

// Floats of scratch that one attention call needs.
int64_t attention_scratch_floats(int64_t head_dim) noexcept;

}  // namespace pythia
