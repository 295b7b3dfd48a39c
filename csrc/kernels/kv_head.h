// How the keys and values of one attention head lie in memory, shared by the kernels and the cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/weight_format.h"

namespace pythia {

// Keys per softmax chunk: a row of attention is cut at multiples of this, and chunks are combined in order.
inline constexpr int64_t kAttentionChunk = 256;

// kF32 keeps what was computed. kI16, for models that quantize their activations anyway, keeps int16 codes with one scale for
// each position's key and one for its value: half the memory to read, and dots that are exact integers.
enum class KvFormat { kF32, kI16 };

// value_stride = head_dim rounded up to kPanelWidth; the columns beyond head_dim are read and their results dropped.
//
//                 kF32                                              kI16
//   keys          float [position / 16][head_dim][position % 16]    int16 [position / 16][head_dim / 2][position % 16][2]
//   values        float [position][value_stride]                    int16 [position / 2][value_stride][2]
//   key_scales    none                                              float [position]: key = code * scale
//   value_scales  none                                              float [position]
//
// In kI16 pairs lie side by side, of dimensions in keys (an odd head_dim has a zero more) and of positions in values: the
// instructions that make dots of int16 take two at a time.
struct KvHead {
  KvFormat format = KvFormat::kF32;
  std::byte* keys = nullptr;  // 64-byte aligned, as all parts
  std::byte* values = nullptr;
  float* key_scales = nullptr;
  float* value_scales = nullptr;
};

// The largest magnitude of kI16 codes of values, and of the softmax weights by which a chunk of them is summed.
inline constexpr int32_t kValueCodeLimit = 2896;
static_assert(int64_t{kValueCodeLimit} * kValueCodeLimit * kAttentionChunk < int64_t{1} << 31);

}  // namespace pythia
