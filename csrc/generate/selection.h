// Finding the few scores that matter among a whole vocabulary, without sorting it. Results are exact and do not depend on the
// algorithm inside: thresholds are values of the input, and masses are integers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pythia {

// Scores are searched in blocks: one pass notes each block's maximum, later passes skip blocks that hold nothing of interest.
inline constexpr int64_t kScoreBlock = 128;

// Largest of x[0..n), ignoring NaN; -infinity if nothing is left.
float max_score(const float* x, int64_t n);

// max_score of each block of kScoreBlock into `maxima`; returns the largest.
float block_maxima(std::span<const float> scores, std::vector<float>& maxima);

// The lowest index of the largest score, as torch.argmax; NaN is ignored. -1 if no score is above -infinity.
int64_t argmax(std::span<const float> scores);

// The k-th largest of scores[i] / divisor (1 <= k <= size, divisor > 0), ignoring NaN. `maxima` are the block maxima of these
// quotients, `scratch` is overwritten.
float kth_largest(std::span<const float> scores, float divisor, std::span<const float> maxima, int64_t k,
                  std::vector<float>& scratch);

// Probabilities as integers: probability i is weight i / (sum of weights). Sums of integers do not depend on their order, so
// whatever is decided by a mass is the same on every machine. 2^38 keeps the sum over 2^24 tokens, the format's largest
// vocabulary, below 2^63, and moves a probability by less than 2^-38 of the largest one: float32's own resolution.
inline constexpr int kWeightBits = 38;

// round_half_even(2^38 e) for e in [0, 1].
int64_t to_weight(float e);

// The sum of to_weight over e[0..n).
int64_t total_weight(const float* e, int64_t n);

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
