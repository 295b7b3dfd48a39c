#include "score/scorer.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pythia {
namespace {

// A cached prefix shorter than this is computed again: to copy it would save nothing.
constexpr int64_t kMinShared = 16;

// Requests of a group run one after the other on one cache, as the choices of a question do; each adds at most this many rows.
constexpr int64_t kMaxOwnInputs = 32;
constexpr std::size_t kMaxGroup = 16;

void validate(const ScoreRequest& request, std::size_t number, const Config& config) {
  const std::string name = "[score] sequence " + std::to_string(number);
  const auto count = static_cast<int64_t>(request.tokens.size());
  const int64_t most = config.max_position_embeddings + 1;
  if (count == 0) throw std::invalid_argument(name + " has no tokens, expected at least one");
  if (count > most)
    throw std::invalid_argument(name + " has " + std::to_string(count) + " tokens, expected at most " + std::to_string(most) +
                                ", the model's context and one that is only predicted");
  if (request.first_target < 1)
    throw std::invalid_argument(name + " is to be scored from token " + std::to_string(request.first_target) +
                                ", expected 1 or more: nothing comes before the first");
  for (const int32_t id : request.tokens)
    if (id < 0 || id >= config.vocab_size)
      throw std::invalid_argument(name + " holds token id " + std::to_string(id) + ", expected 0.." +
                                  std::to_string(config.vocab_size - 1));
}

}  // namespace

// A cache and the consecutive requests that run on it, one after the other.
struct Scorer::Lane {
  std::unique_ptr<KvCache> cache;
  std::size_t request, end;              // in order_
  std::span<const int32_t> tokens = {};  // of the request; the cache holds the first cache->length()
};

// What a lane contributes to one pass: inputs [begin, end) of its request, with targets after the last num_targets of them.
struct Scorer::Part {
  std::size_t request;  // in requests_
  int64_t begin, end, num_targets;
};

Scorer::Scorer(std::shared_ptr<Model> model, std::vector<ScoreRequest> requests, const ScorerLimits& limits)
    : model_(std::move(model)), requests_(std::move(requests)), limits_(limits), scores_(requests_.size()) {
  if (limits.rows_per_pass < 1)
    throw std::invalid_argument("[score] rows_per_pass is " + std::to_string(limits.rows_per_pass) + ", expected 1 or more");
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    validate(requests_[i], i, model_->config());
    const auto count = static_cast<int64_t>(requests_[i].tokens.size());
    if (requests_[i].first_target >= count) continue;
    scores_[i].resize(static_cast<std::size_t>(count - requests_[i].first_target));
    inputs_ += num_request_inputs(i);
    order_.push_back(i);
  }
  if (limits.share_prefixes)
    std::ranges::stable_sort(order_, {}, [&](std::size_t i) -> const std::vector<int32_t>& { return requests_[i].tokens; });
}

Scorer::~Scorer() = default;

// Inputs of a request that a cache holding `cached` has already. Inputs with targets are the request's own.
int64_t Scorer::shared_inputs(std::span<const int32_t> cached, std::size_t request) const {
  if (!limits_.share_prefixes) return 0;
  const std::span<const int32_t> own =
      std::span(requests_[request].tokens).first(static_cast<std::size_t>(requests_[request].first_target - 1));
  return std::ranges::mismatch(cached, own).in2 - own.begin();
}

// Where in order_ the group that begins at `begin` ends: requests that add little to the one before.
std::size_t Scorer::group_end(std::size_t begin) const {
  std::size_t end = begin + 1;
  for (; end < order_.size() && end < begin + kMaxGroup; ++end) {
    const int64_t shared = shared_inputs(requests_[order_[end - 1]].tokens, order_[end]);
    if (shared < kMinShared || num_request_inputs(order_[end]) - shared > kMaxOwnInputs) break;
  }
  return end;
}

// A cache for `capacity` positions: a spare one that is not much too large, or a new one. Spare ones give way to the limit.
std::unique_ptr<KvCache> Scorer::take_cache(int64_t capacity) {
  const auto fits = [capacity](const std::unique_ptr<KvCache>& cache) {
    return cache->capacity() >= capacity && cache->capacity() <= 2 * capacity;
  };
  if (const auto found = std::ranges::find_if(spare_, fits); found != spare_.end()) {
    std::unique_ptr<KvCache> cache = std::move(*found);
    spare_.erase(found);
    cache->truncate(0);
    return cache;
  }
  int64_t in_use = capacity;
  for (const Lane& lane : lanes_) in_use += lane.cache->capacity();
  for (const auto& cache : spare_) in_use += cache->capacity();
  if (in_use * model_->kv_layout().bytes_per_position() > limits_.cache_bytes) spare_.clear();
  return std::make_unique<KvCache>(model_->kv_layout(), capacity);
}

// Gives the next group a cache, with what it shares with a lane. False if there is none, or no memory for it now.
bool Scorer::start_lane() {
  if (next_ == order_.size()) return false;
  const std::size_t end = group_end(next_);
  int64_t capacity = 0, in_use = 0;
  for (std::size_t i = next_; i < end; ++i) capacity = std::max(capacity, num_request_inputs(order_[i]));
  for (const Lane& lane : lanes_) in_use += lane.cache->capacity();
  const int64_t bytes_per_position = model_->kv_layout().bytes_per_position();
  if (!lanes_.empty() && (in_use + capacity) * bytes_per_position > limits_.cache_bytes) return false;

  Lane lane = {take_cache(capacity), next_, end};
  lane.tokens = requests_[order_[next_]].tokens;
  const Lane* source = nullptr;
  int64_t most = kMinShared - 1;
  const auto consider = [&](const Lane& other) {
    const auto cached = other.tokens.first(static_cast<std::size_t>(other.cache->length()));
    const int64_t shared = shared_inputs(cached, order_[next_]);
    if (shared > most) {
      most = shared;
      source = &other;
    }
  };
  for (const Lane& other : lanes_) consider(other);
  if (retired_) consider(*retired_);
  if (source != nullptr) {
    lane.cache->copy_prefix(*source->cache, most);
    inputs_done_ += most;
  }
  lanes_.push_back(std::move(lane));
  next_ = end;
  return true;
}

// Turns the lane to its next request; cache->length() inputs of that are there. The last one leaves lane.request == lane.end.
void Scorer::finish_request(Lane& lane) {
  if (++lane.request == lane.end) return;
  const std::size_t request = order_[lane.request];
  const int64_t shared = shared_inputs(lane.tokens.first(static_cast<std::size_t>(lane.cache->length())), request);
  lane.cache->truncate(shared);
  lane.tokens = requests_[request].tokens;
  inputs_done_ += shared;
}

Scorer::Part Scorer::take(const Lane& lane, int64_t max_rows) const {
  const std::size_t request = order_[lane.request];
  const int64_t begin = lane.cache->length(), end = begin + std::min(num_request_inputs(request) - begin, max_rows);
  const int64_t first = requests_[request].first_target - 1;  // the first input that a target follows
  return {request, begin, end, std::max<int64_t>(0, end - std::max(begin, first))};
}

std::vector<std::size_t> Scorer::step() {
  if (failed_) throw std::invalid_argument("[score] an earlier step failed, and this run cannot go on: make a new one");
  failed_ = true;  // until the step ends: caches may be ahead of the lanes
  std::vector<std::size_t> finished = run_pass();
  failed_ = false;
  return finished;
}

std::vector<std::size_t> Scorer::run_pass() {
  // Lanes that run have their turn first: they end, and others take their memory. The last part is cut to fill the pass.
  std::vector<Part> parts;
  int64_t rows = 0;
  const auto add = [&](const Lane& lane) {
    parts.push_back(take(lane, limits_.rows_per_pass - rows));
    rows += parts.back().end - parts.back().begin;
  };
  for (std::size_t i = 0; i < lanes_.size() && rows < limits_.rows_per_pass; ++i) add(lanes_[i]);
  while (rows < limits_.rows_per_pass && start_lane()) add(lanes_.back());
  if (parts.empty()) return {};

  std::vector<SequenceSlice> slices;
  std::vector<int32_t> targets;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto [request, begin, end, num_targets] = parts[i];
    const std::span<const int32_t> tokens = lanes_[i].tokens;
    slices.push_back({lanes_[i].cache.get(),
                      tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), num_targets});
    const auto next = tokens.subspan(static_cast<std::size_t>(end + 1 - num_targets), static_cast<std::size_t>(num_targets));
    targets.insert(targets.end(), next.begin(), next.end());
  }
  std::vector<TokenScore> scores(targets.size());
  model_->score(slices, targets, scores.data());

  std::vector<std::size_t> finished;
  const TokenScore* score = scores.data();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto [request, begin, end, num_targets] = parts[i];
    std::copy_n(score, num_targets, scores_[request].begin() + (end + 1 - num_targets - requests_[request].first_target));
    score += num_targets;
    if (end < num_request_inputs(request)) continue;
    finished.push_back(request);
    finish_request(lanes_[i]);
  }
  inputs_done_ += rows;
  const auto ended =
      std::stable_partition(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.request != lane.end; });
  if (ended != lanes_.end()) {
    if (retired_) spare_.push_back(std::move(retired_->cache));
    retired_ = std::make_unique<Lane>(std::move(lanes_.back()));
    for (auto lane = ended; lane != lanes_.end() - 1; ++lane) spare_.push_back(std::move(lane->cache));
  }
  lanes_.erase(ended, lanes_.end());
  if (done()) {
    retired_.reset();
    spare_.clear();
  }
  return finished;
}

}  // namespace pythia
