// Four floats that the compiler may keep in one register. Each operation is the IEEE one, element by element: what is computed
// with these has the same bits on every machine and with every compiler that has the vector extension (GCC, Clang).
#pragma once

#include <bit>
#include <cstdint>

namespace pythia {

using Float4 [[gnu::vector_size(16)]] = float;
using Int4 [[gnu::vector_size(16)]] = int32_t;

inline Float4 splat4(float x) { return Float4{x, x, x, x}; }

inline Float4 abs4(Float4 x) { return std::bit_cast<Float4>(std::bit_cast<Int4>(x) & 0x7fffffff); }
inline Float4 min4(Float4 x, Float4 limit) { return limit < x ? limit : x; }
inline Float4 max4(Float4 x, Float4 limit) { return x < limit ? limit : x; }

// To the nearest integer, half to even, for |x| <= 2^22; in the low bits of the sum is the integer too.
inline constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23
inline Float4 round4(Float4 x) { return (x + kRoundingMagic) - kRoundingMagic; }

// Confines values to [low, high].
class Clip4 {
 public:
  Clip4(float low, float high) : low_(splat4(unknown(low))), high_(splat4(unknown(high))) {}
  Float4 operator()(Float4 x) const { return min4(max4(x, low_), high_); }

 private:
  // The compiler is not to know the limits: GCC 12 makes one instruction of a minimum of two variables, four with a constant.
  static float unknown(float x) {
    const volatile float read = x;
    return read;
  }

  Float4 low_, high_;
};

}  // namespace pythia
