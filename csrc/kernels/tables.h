// The tables of this build, one per isa_<name>.cc. dispatch.cc lists them with what each needs of the CPU.
#pragma once

#include "kernels/kernels.h"

namespace pythia {

extern const KernelTable kPortableKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const KernelTable kNeonKernels;
extern const KernelTable kNeonDotprodKernels;

}  // namespace pythia
