// Logarithm and exponential without libm, whose last bits differ between machines: IEEE operations only, the same bits
// everywhere.
#pragma once

namespace pythia {

inline constexpr double kLn2 = 0x1.62e42fefa39efp-1;

// log(x) for finite x >= 1 within 2 ulp.
double log_exact(double x) noexcept;

// exp(x) within 1 ulp where that is a normal number; 0 below, infinity above, NaN of NaN.
double exp_exact(double x) noexcept;

}  // namespace pythia
