// The softmax of one row of scores under a temperature, in integer weights (kernels.h), without a list of its tokens.
//
// A token's weight is that of (score - largest) / temperature. Its quotient, score / temperature in float32, is what
// transformers compares: filters and ties go by quotients. A rounded division never changes the order of two scores but makes
// some equal, so that a bound on quotients is one on scores.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/score_maxima.h"

namespace pythia {

// Calls body(i) for every i in [0, count), on several threads.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;

// Token i has the information -log p_i; the entropy is what is expected of it, the sum of p_i times that.
struct Information {
  float log_total = 0;  // of all exp(quotient - largest)
  float largest = 0;    // quotient
  float entropy = 0;

  // How much more information than the entropy a token of this quotient has.
  float excess(float quotient) const { return (log_total - (quotient - largest)) - entropy; }
};

// Holds scratch memory; one user at a time. Results do not depend on the threads.
class ScoreRow {
 public:
  explicit ScoreRow(const KernelTable& kernels) : kernels_(kernels) {}

  // What follows is about these scores, which must stay, as must their maxima, which are made here if they are not given. NaN
  // is never chosen. parallel_for may be null.
  void reset(std::span<const float> scores, const ScoreMaxima& maxima, float temperature, const ParallelFor* parallel_for);
  void set_temperature(float temperature);

  std::span<const float> scores() const { return scores_; }
  std::span<const float> maxima() const { return {maxima_.of_blocks, num_blocks_}; }
  std::span<const float> group_maxima() const {  // none if they were not given
    return {maxima_.of_groups, maxima_.of_groups ? num_blocks_ * kScoreGroups : 0};
  }
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

  // The sum of all weights.
  int64_t total();

  // What the tokens tell, to the rounding of float32; computed once after reset. Not before set_temperature.
  const Information& information();

  // Gives room to the weights of the scores above a bound, group by group (docs/numerics.md), which is much less work than to
  // know them. Returns how much. Needs the maxima of groups.
  int64_t make_room(float bound);

  // The token on whose weight `point` in that room falls; none if it falls on none.
  std::optional<int32_t> token_at(int64_t point) const;

  // Whether less than `part` of the mass is that of all tokens that come before `id` when they are sorted by quotients, the
  // largest first, and by ids, the highest first. After make_room.
  bool starts_below(int32_t id, double part);

  // Whether less than `part` of the mass is that of all tokens whose information is nearer to the entropy than that of `id`.
  bool is_typical(int32_t id, double part);

 private:
  static constexpr int64_t kGroupSize = kScoreBlock / kScoreGroups;
  using GroupWeights = std::array<int64_t, kGroupSize>;
  struct HeavyGroup {
    int64_t group;
    int64_t mass;
  };

  template <class Body>
  void for_parts(const Body& body) const;
  template <class Mass>
  int64_t sum_of_chunks(const Mass& mass);
  template <class Reaches>
  float first_score(float guess, const Reaches& reaches) const;
  size_t num_chunks() const;
  int64_t chunk_total_above(size_t chunk, float bound) const;
  int64_t weight_of(float score) const;
  GroupWeights weights_of_group(int64_t group) const;
  void weigh_heavy_groups();
  int32_t token_of_heavy_group(int64_t offset) const;
  int64_t mass_of_few(float bound) const;
  std::optional<bool> starts_below_by_estimate(float above, float below_ties, int64_t own_weight, double part);

  const KernelTable& kernels_;
  std::span<const float> scores_;
  float temperature_ = 1;
  const ParallelFor* parallel_for_ = nullptr;
  SoftmaxScale scale_;
  ScoreMaxima maxima_;
  size_t num_blocks_ = 0;
  std::vector<int32_t> bounds_, bounds_of_parts_;  // of the groups and of kBoundsPart of them together
  std::vector<HeavyGroup> heavy_groups_;           // in order; their bounds are 0
  int64_t heavy_mass_ = 0;
  float bound_ = 0;                       // of make_room
  int64_t least_total_ = 0;               // a lower bound of the sum of all weights
  std::vector<int64_t> totals_, masses_;  // by chunk
  std::vector<float> moments_;            // by chunk
  std::optional<Information> information_;
  std::vector<SoftmaxEstimate> estimates_;  // by part
  std::vector<float> own_block_maxima_, own_group_maxima_, maxima_of_maxima_;
  std::vector<int32_t> found_ids_;  // [vocab_size], what collect_above writes to
  std::vector<float> found_scores_;
};

}  // namespace pythia
