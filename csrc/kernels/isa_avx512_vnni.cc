// The kernels compiled for avx512_vnni; empty on other architectures.
#if defined(__AVX512VNNI__)
#include "kernels/vec_avx512.h"
//
#include "kernels/dot_avx512_vnni.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kAvx512VnniKernels = make_table("avx512_vnni");
}  // namespace pythia
#endif
