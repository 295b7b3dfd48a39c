// The kernels compiled for neon_dotprod; empty on other architectures.
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/vec_neon.h"
//
#include "kernels/dot_neon.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kNeonDotprodKernels = make_table("neon_dotprod");
}  // namespace pythia
#endif
