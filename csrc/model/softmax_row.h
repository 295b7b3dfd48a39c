// The softmax of one row of attention scores, for who looks at attention patterns. Attention itself never has them as a whole.
#pragma once

#include <span>

#include "kernels/kernels.h"

namespace pythia {

// In place, over all keys: a changed score may show one that was masked (-infinity). A row that is masked as a whole becomes
// zeros, one with a NaN or an infinity NaN. Sums are of doubles in 16 lanes, so the bits are the same on every machine.
void softmax_row(const KernelTable& kernels, std::span<float> row) noexcept;

}  // namespace pythia
