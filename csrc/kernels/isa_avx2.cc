// The kernels compiled for avx2; empty on other architectures.
#if defined(__AVX2__)
#include "kernels/vec_avx2.h"
//
#include "kernels/dot_avx2.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kAvx2Kernels = make_table("avx2");
}  // namespace pythia
#endif
