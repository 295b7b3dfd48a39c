// What the sixteen codes of q4 stand for.
#pragma once

#include <cstdint>

namespace pythia {

// Levels in units of the group's scale, ascending: a least-squares codebook of trained weights in groups of 32, each with the
// best scale of either sign. tools/fit_codebook.py gives such codebooks; this one did best on a whole model.
inline constexpr int8_t kQ4Levels[16] = {-127, -100, -78, -62, -47, -34, -21, -9, 2, 13, 25, 36, 50, 65, 83, 106};

}  // namespace pythia
