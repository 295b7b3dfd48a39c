// Exact int8 dots in plain C++. Included after vec_portable.h.
//
// Every dot_<name>.h defines the same names. Weight codes are unsigned, 128 above their value; an implementation that
// multiplies them so starts from the group's offset, kDotBase - 128 times the sum of its activation codes, one that makes them
// signed from kDotBase (dot_base.h says what that is for), or from zero as here. The products are the same.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace pythia {
namespace {

// Register tile of the quantized matmuls: rows x panels of accumulators.
constexpr int kQuantRows = 1;
constexpr int kQuantPanels = 1;

// How this implementation reads the activations' codes.
constexpr CodeLayout kCodeLayout = CodeLayout::kInt8;

// The codes of sixteen inputs in this layout.
inline void store_codes(std::byte* p, IVec codes) { store_int8(p, codes); }

inline IVec dot_start(const int32_t* /*offset*/) { return set1_i(0); }

// sum[output] += sum over 4 inputs of (code - 128) * x; x in this layout. kReads: the instruction may read x itself, which
// saves the one that spreads it over lanes; each such call is one more load.
template <bool /*kReads*/ = false>
inline IVec dot_step(IVec sum, Codes weights, const std::byte* x) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) sum.v[lane] += (weights.v[4 * lane + i] - 128) * static_cast<int8_t>(x[i]);
  return sum;
}

// A group's multiples of sixteen outputs; float(dot) * multiple.
struct Multiples {
  Vec multiples;
};
inline Multiples with_base(Vec multiples) { return {multiples}; }
inline Vec times(IVec dot, const Multiples& m) { return to_float(dot) * m.multiples; }

// sum[lane] += a[lane][0] * b[0] + a[lane][1] * b[1], of pairs of int16; wraps where what is summed has no meaning.
inline IVec pair_dot_step(IVec sum, IVec a, const int16_t* b) {
  int16_t pairs[2 * kLanes];
  __builtin_memcpy(pairs, a.v, sizeof pairs);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 2; ++i)
      sum.v[lane] =
          static_cast<int32_t>(static_cast<uint32_t>(sum.v[lane]) + static_cast<uint32_t>(pairs[2 * lane + i] * b[i]));
  return sum;
}

}  // namespace
}  // namespace pythia
