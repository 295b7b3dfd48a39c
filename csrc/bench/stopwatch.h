// Elapsed time.
#pragma once

#include <chrono>

namespace pythia {

class Stopwatch {
 public:
  // Since the construction.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace pythia
