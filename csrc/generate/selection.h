// Finding the few scores that matter among a whole vocabulary, without sorting it. Results are exact and do not depend on the
// algorithm inside: thresholds are values of the input, and masses are integers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace pythia {

// Scores are searched in blocks of kScoreBlock: one pass notes each block's maximum, later passes skip blocks that hold nothing
// of interest.

// The largest of each block, ignoring NaN, into `maxima`; returns the largest of all, -infinity if nothing is left.
float block_maxima(const KernelTable& kernels, std::span<const float> scores, std::vector<float>& maxima);

// The k-th largest of the scores (1 <= k <= size), ignoring NaN. `maxima` are their block maxima, `scratch` is overwritten.
float kth_largest(std::span<const float> scores, std::span<const float> maxima, int64_t k, std::vector<float>& scratch);

// The places of the n largest scores (all, if there are fewer), the largest first, the lower place of equals, without those
// that are NaN. `maxima` are the block maxima, `scratch` is overwritten.
std::vector<int64_t> largest_places(std::span<const float> scores, std::span<const float> maxima, int64_t n,
                                    std::vector<float>& scratch);

// round_half_even(2^38 e) for e in [0, 1].
int64_t to_weight(float e);

// ceil(part * total) in float64, within [1, total]: the mass that a part in (0, 1] of a total means.
int64_t mass_to_reach(double part, int64_t total);

// The sum of to_weight over e[0..n).
int64_t total_weight(const float* e, int64_t n);

// log(total / 2^kWeightBits).
float log_total(const KernelTable& kernels, int64_t total);

struct WeightedKey {
  float key;
  int64_t weight;
};

struct MassThreshold {
  float key;            // of the element, in ascending order of keys, with which the mass reaches the target
  int64_t mass_before;  // of all elements with smaller keys
};

// Adds weights in ascending order of keys until `target` (1 <= target <= sum) is reached, in linear time on average.
// Destroys `elements`, which must not be empty and must not hold NaN.
MassThreshold select_by_mass(std::vector<WeightedKey>& elements, int64_t target);

}  // namespace pythia
