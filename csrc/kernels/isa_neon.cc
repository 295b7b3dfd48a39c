// The kernels compiled for neon; empty on other architectures.
#if defined(__aarch64__)
#include "kernels/vec_neon.h"
//
#include "kernels/dot_neon.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kNeonKernels = make_table("neon");
}  // namespace pythia
#endif
