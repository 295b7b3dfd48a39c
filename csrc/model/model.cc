#include "model/model.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "common/cpu_count.h"
#include "common/process_mutex.h"
#include "common/thread_pool.h"
#include "kernels/dispatch.h"
#include "model/forward.h"
#include "model/inspection.h"
#include "model/weight_pages.h"

namespace pythia {
namespace {

int checked_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads)
    throw std::invalid_argument("[model] threads is " + std::to_string(threads) + ", expected 1.." +
                                std::to_string(kMaxThreads));
  return threads;
}

void validate_ids(const char* what, std::span<const int32_t> ids, const Config& config) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocab_size)
      throw std::invalid_argument("[forward] " + std::string(what) + " " + std::to_string(i) + " is " + std::to_string(ids[i]) +
                                  ", expected an id in 0.." + std::to_string(config.vocab_size - 1));
}

void validate_tokens(const SequenceSlice& slice, const Config& config) {
  const auto count = static_cast<int64_t>(slice.tokens.size());
  if (count == 0)
    throw std::invalid_argument(
        "[forward] a sequence has no tokens, expected at least one (to start from nothing, pass the "
        "end-of-text token)");
  if (slice.num_logits < 0 || slice.num_logits > count)
    throw std::invalid_argument("[forward] logits of " + std::to_string(slice.num_logits) + " tokens asked for, expected 0.." +
                                std::to_string(count));
  validate_ids("token", slice.tokens, config);
}

void validate(const SequenceSlice& slice, const Config& config) {
  if (slice.cache == nullptr) throw std::invalid_argument("[forward] a sequence has no cache, expected one for each");
  validate_tokens(slice, config);
  const auto count = static_cast<int64_t>(slice.tokens.size());
  if (count > slice.cache->capacity() - slice.cache->length()) {
    const bool whole = slice.cache->capacity() == config.max_position_embeddings;
    throw std::invalid_argument("[forward] " + std::to_string(slice.cache->length()) + " + " + std::to_string(count) +
                                " tokens do not fit " + (whole ? "the model's context of " : "the cache's capacity of ") +
                                std::to_string(slice.cache->capacity()) + "; pass fewer tokens or truncate");
  }
}

// Sorts them.
void validate_distinct(std::vector<const KvCache*>& caches) {
  std::ranges::sort(caches);
  if (std::ranges::adjacent_find(caches) != caches.end())
    throw std::invalid_argument("[forward] two sequences share one cache, expected a cache for each");
}

class Uninterested : public Inspector {
 public:
  bool wants(const std::string&) override { return false; }
  bool visit(int64_t, const std::string&, std::span<const int64_t>, std::span<float>) override { return false; }
};

}  // namespace

struct Model::Impl {
  std::shared_ptr<const PcpuFile> file;
  const KernelTable& kernels;
  ModelWeights weights;
  RotaryTable rotary;
  bool quantized;

  std::atomic<int> num_threads;         // the pool's, known without waiting for a pass
  ProcessMutex mutex{"ran the model"};  // guards what follows: one pass at a time (Lock)
  std::unique_ptr<ThreadPool> pool;
  WeightPages weight_pages;
  Workspace workspace;
  std::vector<Segment> segments;                // of the pass being made up
  std::vector<Segment> last_segments;           // those of its last layer
  std::vector<const KvCache*> caches;           // of the call being checked
  TaskOrder head_order = TaskOrder::kForwards;  // of the last pass

  Impl(std::shared_ptr<const PcpuFile> opened, const KernelTable& table, int threads)
      : file(std::move(opened)),
        kernels(table),
        weights(ModelWeights::bind(*file)),
        rotary(file->config()),
        quantized(std::ranges::any_of(
            file->tensors(), [](const TensorRecord& t) { return find_weight_format(t.format)->quantized_activations; })),
        num_threads(threads),
        pool(std::make_unique<ThreadPool>(threads)),
        weight_pages(*file) {}

  using Lock = std::lock_guard<ProcessMutex>;

  // Runs the segments made up so far, `rows` rows in all, of which `rows_with_logits` have logits.
  void run(int64_t rows, int64_t rows_with_logits, const HeadOutput& output) {
    if (rows <= kFewRows) weight_pages.move_some(*pool);
    workspace.reserve(file->config(), rows, pool->size(), quantized ? quantized_group_bytes(kernels.code_layout) : 0);
    workspace.tasks.reserve(file->config(), rows, pool->size());
    if (output.choices || output.maxima.of_blocks) workspace.scores.reserve_choices(rows, pool->size());
    if (output.scores) workspace.scores.reserve(file->config().vocab_size, rows, pool->size());
    head_order = head_order == TaskOrder::kForwards ? TaskOrder::kBackwards : TaskOrder::kForwards;
    const ForwardPass pass(file->config(), weights, kernels, rotary, workspace, segments, output, head_order);
    pass.begin();
    if (rows - rows_with_logits < kFewRows) {
      pool->run([&pass](Team& team) { pass.run(team); });
      pass.finish(pool->size());
    } else {
      select_rows_with_logits(segments, last_segments);
      const ForwardPass last(file->config(), weights, kernels, rotary, workspace, last_segments, output, head_order);
      pool->run([&](Team& team) { pass.run(team, last); });
      last.finish(pool->size());
    }
    segments.clear();
  }
};

Model::Model(Private) {}
Model::~Model() = default;

std::shared_ptr<Model> Model::open(const std::string& path, int threads, std::string_view isa) {
  return make(path, threads, isa, PageUse::kKeep);
}

std::shared_ptr<Model> Model::open_releasing_pages(const std::string& path, int threads) {
  return make(path, threads, {}, PageUse::kRelease);
}

std::shared_ptr<Model> Model::make(const std::string& path, int threads, std::string_view isa, PageUse page_use) {
  const KernelTable& kernels = select_kernels(isa);
  const int count = checked_threads(threads == 0 ? available_physical_cores() : threads);
  const auto model = std::make_shared<Model>(Private());
  model->impl_ = std::make_unique<Impl>(PcpuFile::open(path, count, page_use), kernels, count);
  return model;
}

const Config& Model::config() const { return impl_->file->config(); }
const PcpuFile& Model::file() const { return *impl_->file; }
const char* Model::isa() const { return impl_->kernels.isa; }

KvLayout Model::kv_layout() const { return {config(), impl_->quantized ? KvFormat::kI16 : KvFormat::kF32}; }

int Model::threads() const { return impl_->num_threads; }

void Model::set_threads(int threads) {
  checked_threads(threads);
  const Impl::Lock lock(impl_->mutex);
  if (threads == impl_->pool->size()) return;
  impl_->pool = std::make_unique<ThreadPool>(threads);
  impl_->num_threads = threads;
}

void Model::forward(std::span<const SequenceSlice> slices, float* logits, const ScoreMaxima& maxima) {
  const Impl::Lock lock(impl_->mutex);
  run(slices, {.logits = logits, .maxima = maxima});
}

void Model::choose(std::span<const SequenceSlice> slices, GreedyChoice* choices) {
  const Impl::Lock lock(impl_->mutex);
  run(slices, {.choices = choices});
}

void Model::parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  const Impl::Lock lock(impl_->mutex);
  impl_->pool->run([&](Team& team) { team.for_each(count, body); });
}

void Model::score(std::span<const SequenceSlice> slices, std::span<const int32_t> targets, TokenScore* scores) {
  int64_t rows = 0;
  for (const SequenceSlice& slice : slices) rows += slice.num_logits;
  if (rows != static_cast<int64_t>(targets.size()))
    throw std::invalid_argument("[score] found " + std::to_string(targets.size()) + " targets, expected " +
                                std::to_string(rows) + ", one for each token with logits");
  validate_ids("target", targets, config());
  const Impl::Lock lock(impl_->mutex);
  run(slices, {.targets = targets.data(), .scores = scores});
}

void Model::inspect(std::span<const SequenceSlice> slices, Inspector& inspector, float* logits) {
  std::vector<const KvCache*> caches;
  for (const SequenceSlice& slice : slices) {
    if (slice.cache) {
      validate(slice, config());
      check_layout(*slice.cache);
      caches.push_back(slice.cache);
      continue;
    }
    const auto count = static_cast<int64_t>(slice.tokens.size());
    if (count > config().max_position_embeddings)
      throw std::invalid_argument("[inspect] found " + std::to_string(count) + " tokens, expected 1.." +
                                  std::to_string(config().max_position_embeddings) + ", the model's context");
    validate_tokens(slice, config());
  }
  validate_distinct(caches);
  inspected_pass(slices, inspector).run(logits);
  for (const SequenceSlice& slice : slices)
    if (slice.cache) slice.cache->length_ += static_cast<int64_t>(slice.tokens.size());
}

void Model::unembed(std::span<const float> residuals, float* logits) {
  const std::size_t count = residuals.size() / static_cast<std::size_t>(config().hidden_size);
  if (count == 0 || count > static_cast<std::size_t>(config().max_position_embeddings))
    throw std::invalid_argument("[inspect] found " + std::to_string(count) + " residual streams, expected 1.." +
                                std::to_string(config().max_position_embeddings) + ", the model's context");
  Uninterested nobody;
  const std::vector<int32_t> any(count);
  const SequenceSlice rows = {.tokens = any, .num_logits = static_cast<int64_t>(any.size())};
  inspected_pass({&rows, 1}, nobody).unembed(residuals.data(), logits);
}

InspectedPass Model::inspected_pass(std::span<const SequenceSlice> slices, Inspector& inspector) {
  // The lock is held for one job at a time, so that the inspector may call the model.
  const auto run_job = [this](const std::function<void(Team&)>& job, int max_threads) {
    const Impl::Lock lock(impl_->mutex);
    impl_->pool->run(job, max_threads);
  };
  return {config(), impl_->weights, impl_->kernels, impl_->rotary, impl_->quantized, slices, run_job, inspector};
}

void Model::check_layout(const KvCache& cache) const {
  if (cache.layout() != kv_layout())
    throw std::invalid_argument("[forward] a cache was made for a model of another shape or weight format");
}

void Model::run(std::span<const SequenceSlice> slices, HeadOutput output) {
  impl_->caches.clear();
  for (const SequenceSlice& slice : slices) {
    validate(slice, config());
    check_layout(*slice.cache);
    impl_->caches.push_back(slice.cache);
  }
  validate_distinct(impl_->caches);

  // Passes of up to kRowsPerPass rows; a long sequence goes on in the next pass. Logits are wanted for the last num_logits
  // tokens.
  impl_->segments.clear();
  int64_t rows = 0, rows_with_logits = 0;
  const auto flush = [&] {
    if (rows > 0) impl_->run(rows, rows_with_logits, output);
    output = output.rows_from(rows_with_logits, config().vocab_size);
    rows = rows_with_logits = 0;
  };
  for (const SequenceSlice& slice : slices) {
    const auto count = static_cast<int64_t>(slice.tokens.size());
    for (int64_t begin = 0; begin < count;) {
      const int64_t taken = std::min(count - begin, kRowsPerPass - rows);
      const int64_t num_logits = std::clamp<int64_t>(begin + taken - (count - slice.num_logits), 0, taken);
      impl_->segments.push_back(
          {.cache = slice.cache,
           .tokens = slice.tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(taken)),
           .first_position = slice.cache->length() + begin,
           .first_row = rows,
           .num_logits = num_logits});
      rows_with_logits += num_logits;
      rows += taken;
      begin += taken;
      if (rows == kRowsPerPass) flush();
    }
  }
  flush();
  for (const SequenceSlice& slice : slices) slice.cache->length_ += static_cast<int64_t>(slice.tokens.size());
}

}  // namespace pythia
