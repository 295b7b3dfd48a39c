#include "common/log_exact.h"

#include <bit>
#include <cstdint>

namespace pythia {

double log_exact(double x) noexcept {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172.
  constexpr double kSqrt2 = 0x1.6a09e667f3bcdp0, kLn2 = 0x1.62e42fefa39efp-1;
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

}  // namespace pythia
