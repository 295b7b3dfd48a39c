// A group's dot times its weights' multiples, where dots are not converted to floats. Included by the dot_<name>.h whose dots
// start from kDotBase, the bits of the float 2^23 + 2^22: an integer below 2^22 in magnitude, added to them, is added to the
// float. Its product with a multiple of 8 bits, less that of the base (which is exact), is rounded once by the fused
// multiply-add: the same float as that of the converted dot.
#pragma once

#include "kernels/kernels.h"

namespace pythia {
namespace {

// A group's multiples of sixteen outputs, and the base times them.
struct Multiples {
  Vec multiples;
  Vec minus_base;
};

inline Multiples with_base(Vec multiples) { return {multiples, multiples * set1(-__builtin_bit_cast(float, kDotBase))}; }

// float(d) * multiple, of a dot d that started from the base.
inline Vec times(IVec dot, const Multiples& m) { return fma(from_bits(dot), m.multiples, m.minus_base); }

}  // namespace
}  // namespace pythia
