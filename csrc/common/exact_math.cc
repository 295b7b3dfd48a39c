#include "common/exact_math.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pythia {

double log_exact(double x) noexcept {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172.
  constexpr double kSqrt2 = 0x1.6a09e667f3bcdp0;
  const auto bits = std::bit_cast<uint64_t>(x);
  auto exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m >= kSqrt2) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  double tail = 0;  // s^2/3 + s^4/5 + ...; terms beyond s^22 are below half an ulp
  for (int k = 23; k >= 3; k -= 2) tail = (tail + 1.0 / k) * square;
  return static_cast<double>(exponent) * kLn2 + (2.0 * s + 2.0 * s * tail);
}

double exp_exact(double x) noexcept {
  constexpr double kLog2E = 0x1.71547652b82fep0, kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kLargest = 0x1.62e42fefa39efp9, kSmallest = -0x1.6232bdd7abcd2p9;  // their logarithms
  if (!(x <= kLargest)) return x + std::numeric_limits<double>::infinity();           // NaN stays
  if (x < kSmallest) return 0;
  // x = n ln 2 + r with |r| < 0.35; the high part has so few bits that its product with n is exact.
  const double n = std::floor(x * kLog2E + 0.5), r = (x - n * kLn2High) - n * kLn2Low;
  double sum = 1;  // 1 + r/3 (1 + r/4 (1 + ...)); terms beyond r^13 are below half an ulp
  for (int k = 13; k >= 3; --k) sum = 1.0 + r / k * sum;
  return std::ldexp(1.0 + (r + r * r / 2.0 * sum), static_cast<int>(n));
}

}  // namespace pythia
