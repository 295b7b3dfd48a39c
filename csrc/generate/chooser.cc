#include "generate/chooser.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "common/fp_environment.h"
#include "kernels/dispatch.h"
#include "model/inspection.h"

namespace pythia {
namespace {

// Names sequences by their requests' numbers.
class ByRequest : public Inspector {
 public:
  ByRequest(Inspector& inspector, std::span<const PassPart> parts) : inspector_(inspector), parts_(parts) {}

  bool wants(const std::string& name) override { return inspector_.wants(name); }

  bool visit(int64_t sequence, const std::string& name, std::span<const int64_t> shape, std::span<float> values) override {
    return inspector_.visit(parts_[static_cast<std::size_t>(sequence)].sequence->number, name, shape, values);
  }

 private:
  Inspector& inspector_;
  std::span<const PassPart> parts_;
};

}  // namespace

// What one thread needs to choose.
struct TokenChooser::Scratch {
  explicit Scratch(const KernelTable& kernels) : sampler(kernels), logprobs(kernels) {}
  Sampler sampler;
  RowLogprobs logprobs;
};

TokenChooser::TokenChooser(std::shared_ptr<Model> model, std::shared_ptr<Inspector> inspector)
    : model_(std::move(model)), inspector_(std::move(inspector)), kernels_(select_kernels(model_->isa())) {}

TokenChooser::~TokenChooser() = default;

std::unique_ptr<TokenChooser::Scratch> TokenChooser::take_scratch() {
  const std::lock_guard lock(scratch_mutex_);
  if (scratch_.empty()) return std::make_unique<Scratch>(kernels_);
  auto scratch = std::move(scratch_.back());
  scratch_.pop_back();
  return scratch;
}

void TokenChooser::return_scratch(std::unique_ptr<Scratch> scratch) {
  const std::lock_guard lock(scratch_mutex_);
  scratch_.push_back(std::move(scratch));
}

void TokenChooser::run(std::span<PassPart> parts) {
  slices_.clear();
  int64_t num_rows = 0;
  bool largest_only = inspector_ == nullptr;
  for (PassPart& part : parts) {
    part.chosen.clear();
    slices_.push_back(part.slice);
    num_rows += part.slice.num_logits;
    largest_only &= part.slice.num_logits == 0 || (part.sequence->takes_largest() && part.num_logprobs < 0);
  }
  largest_only ? take_largest(parts, num_rows) : sample(parts, num_rows);
}

void TokenChooser::take_largest(std::span<PassPart> parts, int64_t num_rows) {
  choices_.resize(static_cast<std::size_t>(num_rows));
  model_->choose(slices_, choices_.data());
  const GreedyChoice* choice = choices_.data();
  for (PassPart& part : parts) {
    const auto rows = static_cast<std::size_t>(part.slice.num_logits);
    for (std::size_t i = 0; i < rows; ++i) {
      part.chosen.push_back({.id = choice[i].id, .top = {}});
      if (i < part.expected.size() && choice[i].id != part.expected[i]) break;
    }
    choice += rows;
  }
}

// Runs the model over slices_.
void TokenChooser::compute_logits(std::span<const PassPart> parts, int64_t num_rows) {
  const int64_t vocab_size = model_->config().vocab_size;
  logits_.reserve(num_rows * vocab_size);
  if (inspector_) {
    ByRequest by_request(*inspector_, parts);
    model_->inspect(slices_, by_request, logits_.data());
    return;
  }
  const int64_t num_blocks = num_rows * ScoreMaxima::num_blocks(vocab_size);
  block_maxima_.reserve(num_blocks);
  maxima_ = {.of_blocks = block_maxima_.data(), .of_groups = nullptr};
  const auto needs_groups = [vocab_size](const PassPart& part) {
    return part.slice.num_logits > 0 && Sampler::needs_groups(part.sequence->sampling, vocab_size);
  };
  if (std::ranges::any_of(parts, needs_groups)) {
    group_maxima_.reserve(num_blocks * kScoreGroups);
    maxima_.of_groups = group_maxima_.data();
  }
  model_->forward(slices_, logits_.data(), maxima_);
}

void TokenChooser::sample(std::span<PassPart> parts, int64_t num_rows) {
  compute_logits(parts, num_rows);
  struct Job {
    PassPart* part;
    int64_t first_row;
    std::exception_ptr error;
  };
  std::vector<Job> jobs;
  int64_t row = 0;
  for (PassPart& part : parts) {
    if (part.slice.num_logits > 0) jobs.push_back({&part, row, nullptr});
    row += part.slice.num_logits;
  }
  const ParallelFor on_threads = [this](int64_t count, const auto& body) { model_->parallel_for(count, body); };
  const ParallelFor* const inside = jobs.size() == 1 && model_->threads() > 1 ? &on_threads : nullptr;
  const auto run_job = [&](int64_t i) noexcept {
    Job& job = jobs[static_cast<std::size_t>(i)];
    try {
      auto scratch = take_scratch();
      sample_part(*job.part, job.first_row, *scratch, inside);
      return_scratch(std::move(scratch));
    } catch (...) {
      job.error = std::current_exception();
    }
  };
  if (jobs.size() == 1) {
    const FpEnvironment fp_environment;
    run_job(0);
  } else {
    model_->parallel_for(static_cast<int64_t>(jobs.size()), run_job);
  }
  for (const Job& job : jobs)
    if (job.error) std::rethrow_exception(job.error);
}

void TokenChooser::sample_part(PassPart& part, int64_t first_row, Scratch& scratch, const ParallelFor* parallel_for) const {
  const int64_t vocab_size = model_->config().vocab_size;
  for (int64_t i = 0; i < part.slice.num_logits; ++i) {
    const std::span<float> row(logits_.data() + (first_row + i) * vocab_size, static_cast<std::size_t>(vocab_size));
    const ScoreMaxima maxima = maxima_.from_row(first_row + i, vocab_size);
    const DrawKey draw{part.sequence->seed, part.sequence->draw_sequence, static_cast<uint64_t>(part.first_step + i)};
    const int32_t chosen = scratch.sampler.sample(row, maxima, part.sequence->sampling, part.history, draw, parallel_for);
    ChosenToken token{.id = chosen, .top = {}};
    if (chosen == kNoToken) {
      part.chosen.push_back(std::move(token));
      break;
    }
    if (part.num_logprobs >= 0) {
      scratch.logprobs.reset(row, token.id, parallel_for);
      token.logprob = scratch.logprobs.of(token.id);
      // Where the sampler changed logits for a while, it changed their maxima for good.
      token.top = scratch.logprobs.top(
          part.num_logprobs, part.sequence->sampling.changes_logits() ? std::span<const float>() : maxima.blocks(vocab_size));
    }
    if (part.history) part.history->add_generated(token.id);
    part.chosen.push_back(std::move(token));
    const auto place = static_cast<std::size_t>(i);
    if (place < part.expected.size() && part.expected[place] != chosen) break;
  }
}

}  // namespace pythia
