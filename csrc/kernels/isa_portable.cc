// The kernels in plain C++: the reference for all others, and what runs where no other can.
#include "kernels/vec_portable.h"
//
#include "kernels/dot_portable.h"
//
#include "kernels/bodies.inl"
#include "kernels/tables.h"

namespace pythia {
constinit const KernelTable kPortableKernels = make_table("portable");
}  // namespace pythia
