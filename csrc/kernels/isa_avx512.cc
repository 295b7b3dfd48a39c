// The kernels compiled for avx512; empty on other architectures.
#if defined(__AVX512F__)
#include "kernels/vec_avx512.h"
//
#include "kernels/dot_avx512.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kAvx512Kernels = make_table("avx512");
}  // namespace pythia
#endif
