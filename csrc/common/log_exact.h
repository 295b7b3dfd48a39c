// The natural logarithm without libm, whose last bits differ between machines.
#pragma once

namespace pythia {

// log(x) for finite x >= 1 within 2 ulp, from IEEE operations only: the same bits on every machine.
double log_exact(double x) noexcept;

}  // namespace pythia
