// The softmax of one row of scores under a temperature, in integer weights (kernels.h), without a list of its tokens.
//
// A token's weight is that of (score - largest) / temperature. Its quotient, score / temperature in float32, is what
// transformers compares: filters and ties go by quotients. A rounded division never changes the order of two scores but makes
// some equal, so that a bound on quotients is one on scores.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "generate/philox.h"
#include "kernels/kernels.h"
#include "kernels/score_maxima.h"

namespace pythia {

// Calls body(i) for every i in [0, count), on several threads.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;

// Holds scratch memory; one user at a time. Results do not depend on the threads.
class ScoreRow {
 public:
  static constexpr float kNoBound = -std::numeric_limits<float>::infinity();

  explicit ScoreRow(const KernelTable& kernels) : kernels_(kernels) {}

  // What follows is about these scores, which must stay, as must their maxima, which are made here if they are not given. NaN
  // is never chosen. parallel_for may be null.
  void reset(std::span<const float> scores, const ScoreMaxima& maxima, float temperature, const ParallelFor* parallel_for);
  void set_temperature(float temperature);

  std::span<const float> scores() const { return scores_; }
  std::span<const float> maxima() const { return {maxima_.of_blocks, num_blocks_}; }
  float largest() const { return scale_.largest; }  // score; -infinity if there is none
  int32_t argmax() const;                           // the lowest id of the largest score, which there must be
  float quotient(float score) const { return score / temperature_; }

  // False where infinite scores, or a temperature so low that quotients overflow, leave no softmax.
  bool has_softmax() const;

  // The lowest score whose quotient is at least `quotient`, infinity if there is none.
  float lowest_with(float quotient) const;

  // A bound that scores with a quotient of at least `quotient` are above, and others are not.
  float bound_below(float quotient) const;

  // Writes exp((score - largest) / temperature) of the scores to `exps`.
  void exps_of(std::span<const float> scores, float* exps) const;

  // The ids, ascending, and the values of the scores above the bound.
  void collect_above(float bound, std::vector<int32_t>& ids, std::vector<float>& scores);

  // The weights of the scores above a bound.
  struct Masses {
    float bound = kNoBound;
    std::vector<int64_t> chunks;  // by chunk of kSoftmaxChunk scores
    int64_t total = 0;
  };
  void weigh(float bound, Masses& masses) const;

  // The token on whose weight `offset` in [0, masses.total) falls, the tokens in order of ids.
  int32_t token_at(const Masses& masses, int64_t offset) const;

  // Draws a token by its weight, in a way that seldom needs the total (docs/numerics.md). Needs the maxima of groups; `masses`
  // is scratch.
  int32_t draw(UniformSequence& uniforms, Masses& masses);

  // Whether less than `target` is the mass of all tokens that come before `id` when they are sorted by quotients, the largest
  // first, and by ids, the highest first. `all` are the masses without a bound.
  bool starts_below(int32_t id, int64_t target, const Masses& all) const;

 private:
  template <class Body>
  void for_parts(const ParallelFor* parallel_for, const Body& body) const;
  std::optional<int32_t> token_under_bounds(int64_t point) const;
  int64_t chunk_total_above(size_t chunk, float bound) const;

  const KernelTable& kernels_;
  std::span<const float> scores_;
  float temperature_ = 1;
  const ParallelFor* parallel_for_ = nullptr;
  SoftmaxScale scale_;
  ScoreMaxima maxima_;
  size_t num_blocks_ = 0;
  std::vector<int32_t> bounds_, bounds_of_parts_;  // of the groups and of kBoundsPart of them together
  std::vector<float> own_block_maxima_, own_group_maxima_, maxima_of_maxima_;
  std::vector<int32_t> found_ids_;  // [vocab_size], what collect_above writes to
  std::vector<float> found_scores_;
};

}  // namespace pythia
