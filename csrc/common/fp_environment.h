// The floating-point mode the same-bits promise needs: round to nearest, subnormals kept. Other libraries in the process may
// have changed it on the calling thread (code linked with -ffast-math turns subnormals off).
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace pythia {

// Sets the mode for its lifetime and restores what was there.
class FpEnvironment {
 public:
#if defined(__x86_64__)
  FpEnvironment() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(kDefaultMxcsr); }
  ~FpEnvironment() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FpEnvironment() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~FpEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
  FpEnvironment() noexcept = default;
#endif
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint32_t kDefaultMxcsr = 0x1f80;  // all exceptions masked, nearest, no FTZ, no DAZ
  uint32_t saved_;
#elif defined(__aarch64__)
  uint64_t saved_ = 0;
#endif
};

}  // namespace pythia
