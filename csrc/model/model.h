// A GPT-NeoX model, ready to run: an open .pcpu file, a kernel table, threads, and the forward pass over them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "format/reader.h"
#include "kernels/kernels.h"
#include "kernels/score_maxima.h"
#include "model/kv_cache.h"
#include "model/scoring.h"
#include "model/sequence_slice.h"

namespace pythia {

inline constexpr int kMaxThreads = 1024;  // of a model

// Tokens of one pass: enough that every weight read from memory is used many times, few enough that activations stay in cache.
inline constexpr int64_t kRowsPerPass = 512;

struct HeadOutput;
class InspectedPass;
class Inspector;

class Model {
  struct Private {
    explicit Private() = default;
  };

 public:
  explicit Model(Private);  // for open()

  // threads 0: available_physical_cores(). isa empty: PYTHIA_CPU_ISA or the best.
  // Throws FormatError, std::system_error (cannot open), std::invalid_argument (isa, threads).
  static std::shared_ptr<Model> open(const std::string& path, int threads = 0, std::string_view isa = {});

  // As open, for one look at a file that may be larger than memory should be (PageUse::kRelease).
  static std::shared_ptr<Model> open_releasing_pages(const std::string& path, int threads = 0);

  ~Model();

  const Config& config() const;
  const PcpuFile& file() const;
  const char* isa() const;
  KvLayout kv_layout() const;  // of caches for this model: kI16 where weights are q8 or q4
  int threads() const;
  void set_threads(int threads);  // throws std::invalid_argument (1..kMaxThreads), std::system_error (the system has no more)

  // Appends each slice's tokens to its cache and writes the logits asked for to `logits` [sum num_logits, vocab_size] in order.
  // The bits of a row depend on the model and the tokens before it in its sequence, and on nothing else: not on the other
  // slices, the split into calls, the threads or the ISA. Slices must name different caches. Safe to call from several threads
  // (calls run one after the other). On an error nothing is appended.
  // Writes the logits' `maxima` too, [sum num_logits] rows, as far as there is a place for them.
  // Throws std::invalid_argument: a token out of range, a cache that is full, of another layout or named twice, an empty slice,
  // more logits than tokens; std::bad_alloc; std::system_error: in a process that was forked during a call, or where the system
  // gives a forked process no threads.
  void forward(std::span<const SequenceSlice> slices, float* logits, const ScoreMaxima& maxima = {});

  // As forward, but writes the token with the largest logit to `choices` [sum num_logits]. The logits never exist as a whole.
  void choose(std::span<const SequenceSlice> slices, GreedyChoice* choices);

  // Calls body(i) for every i in [0, count), on the model's threads. The body must not throw, and must not call the model.
  void parallel_for(int64_t count, const std::function<void(int64_t)>& body);

  // As forward, but writes how likely `targets` [sum num_logits] are, one after each token that has logits, to `scores` [sum
  // num_logits]. The logits never exist as a whole. What forward says of bits holds here too.
  void score(std::span<const SequenceSlice> slices, std::span<const int32_t> targets, TokenScore* scores);

  // As forward, with the activations shown to `inspector` (model/inspection.h): the same bits unless it changes something. The
  // slices run together, however long they are. Tokens without a cache are their whole sequence; caches are as they were if
  // this throws. The inspector may use the model itself, but not the caches. Throws what forward, the inspector and the pass
  // throw.
  void inspect(std::span<const SequenceSlice> slices, Inspector& inspector, float* logits);

  // The logits [rows, vocab_size] of finite residual streams [rows, hidden_size]: final LayerNorm and head, with the bits that
  // forward() has for the same stream. Throws std::invalid_argument: no rows, or more than the context holds.
  void unembed(std::span<const float> residuals, float* logits);

 private:
  InspectedPass inspected_pass(std::span<const SequenceSlice> slices, Inspector& inspector);
  void check_layout(const KvCache& cache) const;                       // throws std::invalid_argument
  void run(std::span<const SequenceSlice> slices, HeadOutput output);  // impl_->mutex is held

  static std::shared_ptr<Model> make(const std::string& path, int threads, std::string_view isa, PageUse page_use);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pythia
