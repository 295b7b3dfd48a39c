// The next token from the logits of one position: penalties, filters and the draw, with the same result on every machine.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "generate/philox.h"
#include "generate/sampling_options.h"
#include "generate/score_row.h"
#include "generate/selection.h"
#include "kernels/kernels.h"

namespace pythia {

// The tokens of a sequence, for the penalties.
class TokenHistory {
 public:
  struct Entry {
    int32_t id;
    int32_t times_generated;  // 0: in the prompt only
  };
  explicit TokenHistory(std::span<const int32_t> prompt);
  void add_generated(int32_t id);
  std::span<const Entry> entries() const { return entries_; }  // the distinct ones

  // Calls body(id) for every token, perhaps several times, that would end a run of n tokens which is in the sequence already.
  template <class Body>
  void for_repeats(int64_t n, Body body) const;

 private:
  Entry& entry(int32_t id);
  std::vector<int32_t> tokens_;
  std::vector<Entry> entries_;
  std::unordered_map<int32_t, size_t> index_;
};

// What stands for a token where no score is above -infinity.
inline constexpr int32_t kNoToken = -1;

// Throws std::invalid_argument saying so.
[[noreturn]] void throw_no_token();

// Tokens that the filters have left, ids ascending.
struct Candidates {
  std::vector<int32_t> ids;
  std::vector<float> scores;  // divided by the temperature
  std::vector<float> exps;    // exp((score - largest score) / temperature); the draw's weights are to_weight of these
};

// Holds the scratch memory; one user at a time. The result depends on the arguments alone, not on the threads.
//
// Order and ties follow transformers 5 (generation/logits_process.py): top_k, min_p and typical_p keep all tokens that tie with
// the last one kept; top_p keeps the higher ids of a tie at its border, as the ascending stable sort there does. Masses are
// sums of integer weights (kernels.h), where transformers adds float32 probabilities in the order of a sort, so a token whose
// cumulative probability lies within float32's rounding of top_p or typical_p may fall on the other side.
class Sampler {
 public:
  explicit Sampler(const KernelTable& kernels) : kernels_(kernels), row_(kernels) {}

  // logits [vocab_size], float32, changed meanwhile and restored; `maxima` are theirs, as far as they are known, and change
  // with them for good. Options must be valid (see validate). `history` may be null if the options have no penalties,
  // parallel_for where one thread is to do all. NaN scores are never chosen. Returns kNoToken if no score is above -infinity.
  int32_t sample(std::span<float> logits, const ScoreMaxima& maxima, const SamplingOptions& options,
                 const TokenHistory* history, const DrawKey& draw, const ParallelFor* parallel_for = nullptr);

  // Whether sample() needs the maxima of groups of a row of vocab_size logits, if it is given maxima.
  static bool needs_groups(const SamplingOptions& options, int64_t vocab_size);

  // The tokens that sample() draws from with do_sample on. Valid until the next call. Throws std::invalid_argument if there are
  // none.
  const Candidates& filter(std::span<float> logits, const SamplingOptions& options, const TokenHistory* history);

 private:
  void update_maxima(std::span<const float> logits, const ScoreMaxima& maxima);
  std::optional<int32_t> draw_from_row(const SamplingOptions& options, UniformSequence& uniforms);
  int32_t draw_from_candidates(UniformSequence& uniforms) const;
  void apply_filters(const SamplingOptions& options);
  void collect(float lowest_quotient);
  void keep_largest();
  float bound_of_top_k(int64_t k) const;
  void keep_top_k(int64_t k);
  void keep_top_p(double top_p);
  struct Border {
    float score;
    int64_t mass_before;
  };
  Border find_top_p_border(float above, int64_t mass_above, int64_t target);
  float lowest_min_p_quotient(double min_p) const;
  void keep_min_p(double min_p);
  void keep_typical(double typical_p);
  Information information_of_candidates() const;
  template <class Keep>
  void compact(Keep&& keep);

  const KernelTable& kernels_;
  ScoreRow row_;
  bool listed_ = false;  // candidates_ holds what is left; otherwise all tokens are
  Candidates candidates_;
  std::vector<std::pair<int32_t, float>> replaced_;  // logits that penalties have changed
  std::vector<uint8_t> is_touched_;                  // block of logits
  std::vector<float> scratch_;
  std::vector<WeightedKey> elements_;
};

}  // namespace pythia
