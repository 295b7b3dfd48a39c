// The kernels compiled for avx_vnni; empty on other architectures.
#if defined(__AVXVNNI__)
#include "kernels/vec_avx2.h"
//
#include "kernels/dot_avx_vnni.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kAvxVnniKernels = make_table("avx_vnni");
}  // namespace pythia
#endif
