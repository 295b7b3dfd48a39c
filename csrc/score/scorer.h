// Log-probabilities of many sequences at once. Every pass of the model is filled with rows of as many sequences as it takes,
// and contexts that requests share are computed once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"

namespace pythia {

// Scores tokens[first_target..], each given all tokens before it. The last token is only predicted, so there may be one more
// than the model's context holds.
struct ScoreRequest {
  std::vector<int32_t> tokens = {};
  int64_t first_target = 1;  // at least 1
};

struct ScorerLimits {
  int64_t rows_per_pass = kRowsPerPass;
  int64_t cache_bytes = int64_t{1} << 30;  // of caches in use, but for the last that ended; one may take more
  bool share_prefixes = true;              // changes speed, never a bit
};

class Scorer {
 public:
  // Throws std::invalid_argument: no tokens, an id out of range, first_target below 1, more tokens than the context and one.
  Scorer(std::shared_ptr<Model> model, std::vector<ScoreRequest> requests, const ScorerLimits& limits = {});
  ~Scorer();

  bool done() const { return lanes_.empty() && next_ == order_.size(); }

  // One pass of the model; does nothing once done. Returns the requests that ended; those without targets are in none. Throws
  // std::invalid_argument after a step that threw.
  std::vector<std::size_t> step();

  // How far it is: inputs run or found in a cache, of those of all requests.
  int64_t num_inputs_done() const { return inputs_done_; }
  int64_t num_inputs() const { return inputs_; }

  // For each request the scores of its targets, in the order given; complete once done.
  const std::vector<std::vector<TokenScore>>& scores() const { return scores_; }

 private:
  struct Lane;
  struct Part;

  int64_t num_request_inputs(std::size_t request) const { return static_cast<int64_t>(requests_[request].tokens.size()) - 1; }
  int64_t shared_inputs(std::span<const int32_t> cached, std::size_t request) const;
  std::size_t group_end(std::size_t begin) const;
  bool start_lane();
  std::unique_ptr<KvCache> take_cache(int64_t capacity);
  void finish_request(Lane& lane);
  Part take(const Lane& lane, int64_t max_rows) const;
  std::vector<std::size_t> run_pass();

  std::shared_ptr<Model> model_;
  std::vector<ScoreRequest> requests_;
  ScorerLimits limits_;
  std::vector<std::size_t> order_;  // requests with targets; equal beginnings side by side
  std::size_t next_ = 0;            // in order_: the first that no lane has
  std::vector<Lane> lanes_;
  std::unique_ptr<Lane> retired_;                // the last lane that ended, for what its cache holds
  std::vector<std::unique_ptr<KvCache>> spare_;  // of lanes that ended: memory that the system has cleared already
  std::vector<std::vector<TokenScore>> scores_;
  int64_t inputs_ = 0, inputs_done_ = 0;
  bool failed_ = false;
};

}  // namespace pythia
