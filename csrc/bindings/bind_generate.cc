// Generation, and the sampler alone.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/python_inspector.h"
#include "common/fp_environment.h"
#include "common/thread_pool.h"
#include "generate/generator.h"
#include "kernels/dispatch.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::vector<float> row_of(const Logits& logits) {
  if (logits.ndim() != 1 || logits.size() == 0)
    throw std::invalid_argument("[sample] logits have " + std::to_string(logits.ndim()) + " dimensions and " +
                                std::to_string(logits.size()) + " elements, expected one non-empty row");
  return {logits.data(), logits.data() + logits.size()};
}

SamplingOptions make_options(bool do_sample, float temperature, int64_t top_k, double top_p, double min_p, double typical_p,
                             float repetition_penalty, float presence_penalty, float frequency_penalty,
                             int64_t no_repeat_ngram_size, std::vector<std::pair<int32_t, float>> logit_bias) {
  SamplingOptions options;
  options.do_sample = do_sample;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.min_p = min_p;
  options.typical_p = typical_p;
  options.repetition_penalty = repetition_penalty;
  options.presence_penalty = presence_penalty;
  options.frequency_penalty = frequency_penalty;
  options.no_repeat_ngram_size = no_repeat_ngram_size;
  options.logit_bias = std::move(logit_bias);
  return options;
}

TokenHistory make_history(const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated, size_t vocab_size) {
  TokenHistory history(prompt);
  for (const int32_t id : generated) history.add_generated(id);
  for (const auto& entry : history.entries())
    if (entry.id < 0 || entry.id >= static_cast<int64_t>(vocab_size))
      throw std::invalid_argument("[sample] token id " + std::to_string(entry.id) + " is outside the " +
                                  std::to_string(vocab_size) + " logits");
  return history;
}

// (ids, scores, weights) of the tokens that the options leave.
py::tuple filter_logits(const Logits& logits, const SamplingOptions& options, const std::vector<int32_t>& prompt,
                        const std::vector<int32_t>& generated) {
  const FpEnvironment fp_environment;
  std::vector<float> row = row_of(logits);
  validate(options, static_cast<int64_t>(row.size()));
  const TokenHistory history = make_history(prompt, generated, row.size());
  Sampler sampler(select_kernels());
  const Candidates& left = sampler.filter(row, options, &history);
  std::vector<int64_t> weights;
  for (const float e : left.exps) weights.push_back(to_weight(e));
  const auto to_array = [](const auto& v) { return py::array(static_cast<py::ssize_t>(v.size()), v.data()); };
  return py::make_tuple(to_array(left.ids), to_array(left.scores), to_array(weights));
}

// Draws of `num_draws` steps from the same logits, each with its own step number, on `threads` threads.
py::array_t<int32_t> sample_logits(const Logits& logits, const SamplingOptions& options, const std::vector<int32_t>& prompt,
                                   const std::vector<int32_t>& generated, uint64_t seed, uint64_t sequence, uint64_t first_step,
                                   int64_t num_draws, int threads) {
  std::vector<float> row = row_of(logits);
  validate(options, static_cast<int64_t>(row.size()));
  const TokenHistory history = make_history(prompt, generated, row.size());
  Sampler sampler(select_kernels());
  py::array_t<int32_t> ids(num_draws);
  int32_t* out = ids.mutable_data();
  const WithoutGil unlocked;
  const FpEnvironment fp_environment;
  ThreadPool pool(threads);
  const ParallelFor on_threads = [&](int64_t count, const auto& body) {
    pool.run([&](Team& team) { team.for_each(count, body); });
  };
  const ParallelFor* const parallel_for = threads > 1 ? &on_threads : nullptr;
  for (int64_t i = 0; i < num_draws; ++i) {
    out[i] = sampler.sample(row, {}, options, &history, {seed, sequence, first_step + static_cast<uint64_t>(i)}, parallel_for);
    if (out[i] == kNoToken) throw_no_token();
  }
  return ids;
}

// Log-softmax of each row of [num_rows, vocab_size], by the sums that score the most likely token.
py::array_t<float> log_softmax(const Logits& logits) {
  if (logits.ndim() != 2 || logits.shape(1) == 0)
    throw std::invalid_argument("[log_softmax] logits have " + std::to_string(logits.ndim()) +
                                " dimensions, expected rows of at least one");
  py::array_t<float> logprobs({logits.shape(0), logits.shape(1)});
  const auto num_rows = static_cast<size_t>(logits.shape(0)), vocab_size = static_cast<size_t>(logits.shape(1));
  const float* in = logits.data();
  float* out = logprobs.mutable_data();
  const WithoutGil unlocked;
  const FpEnvironment fp_environment;
  const KernelTable& kernels = select_kernels();
  RowLogprobs of_row(kernels);
  std::vector<float> maxima;
  for (size_t row = 0; row < num_rows; ++row, in += vocab_size, out += vocab_size) {
    const std::span<const float> scores(in, vocab_size);
    const float largest = block_maxima(kernels, scores, maxima);
    const auto place = std::find(scores.begin(), scores.end(), largest) - scores.begin();  // none: all are NaN
    of_row.reset(scores, static_cast<int32_t>(place < std::ssize(scores) ? place : 0));
    for (size_t id = 0; id < vocab_size; ++id) out[id] = of_row.of(static_cast<int32_t>(id));
  }
  return logprobs;
}

// The places of the `count` largest of values [n] (all, if there are fewer).
py::array_t<int64_t> largest_of(const Logits& values, int64_t count) {
  if (values.ndim() != 1)
    throw std::invalid_argument("[largest] values have " + std::to_string(values.ndim()) + " dimensions, expected one");
  const std::span<const float> scores(values.data(), static_cast<size_t>(values.size()));
  std::vector<int64_t> places;
  {
    const WithoutGil unlocked;
    std::vector<float> maxima, scratch;
    block_maxima(select_kernels(), scores, maxima);
    places = largest_places(scores, maxima, count, scratch);
  }
  return py::array_t<int64_t>(static_cast<py::ssize_t>(places.size()), places.data());
}

py::object to_python(const std::vector<TokenLogprob>& top) {
  py::list list;
  for (const auto& [id, logprob] : top) list.append(py::make_tuple(id, logprob));
  return list;
}

py::object to_python(const std::optional<FinishReason>& reason) {
  if (!reason) return py::none();
  const std::string_view name = name_of(*reason);
  return py::str(name.data(), name.size());
}

// A model with the tokenizer of its file, which takes a while to build and serves all generators.
struct GenerationEngine {
  explicit GenerationEngine(std::shared_ptr<Model> m) : model(std::move(m)), tokenizer(model->file().tokenizer()) {}
  std::shared_ptr<Model> model;
  Tokenizer tokenizer;
};

// The names of activations, and the function that sees them.
using NamesAndFunction = std::pair<std::set<std::string>, py::function>;

// A generator and the requests that it works on.
class GenerationRun {
 public:
  GenerationRun(const std::shared_ptr<GenerationEngine>& engine, int64_t max_active, int64_t max_kv_bytes,
                const std::optional<std::shared_ptr<Model>>& draft,
                const std::optional<std::shared_ptr<PrefixCache>>& prefix_cache,
                const std::optional<NamesAndFunction>& inspector)
      : inspector_(inspector ? std::make_shared<PythonInspector>(inspector->first, inspector->second) : nullptr),
        generator_(engine->model, std::shared_ptr<const Tokenizer>(engine, &engine->tokenizer),
                   {.max_active = max_active, .max_kv_bytes = max_kv_bytes},
                   {draft.value_or(nullptr), prefix_cache.value_or(nullptr), inspector_}) {}

  // Lets Python's collector of cycles see the inspector's function: an edit may hold the stream that runs it.
  static void let_collect(PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
      Py_VISIT(Py_TYPE(self));
      if (PythonInspector* inspector = inspector_of(self)) Py_VISIT(inspector->function().ptr());
      return 0;
    };
    type.tp_clear = [](PyObject* self) {
      if (PythonInspector* inspector = inspector_of(self)) inspector->drop_function();
      return 0;
    };
  }

  int64_t add(std::vector<int32_t> prompt, const SamplingOptions& sampling, int64_t max_new_tokens,
              std::vector<std::string> stop, std::vector<int32_t> eos_token_ids, uint64_t seed, uint64_t sequence,
              int64_t num_logprobs) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling = sampling;
    request.max_new_tokens = max_new_tokens;
    request.stop = std::move(stop);
    request.eos_token_ids = std::move(eos_token_ids);
    request.seed = seed;
    request.sequence = sequence;
    request.num_logprobs = num_logprobs;
    const int64_t number = generator_.add(std::move(request));
    running_[number].num_logprobs = num_logprobs;
    return number;
  }

  bool done() const { return generator_.done() && unreported_.empty(); }
  int64_t num_waiting() const { return generator_.num_waiting(); }
  int64_t max_kv_bytes() { return generator_.max_kv_bytes(); }

  py::list step() {
    py::list list;
    for (const GeneratedToken& token : run_step())
      list.append(py::make_tuple(token.request, token.id, token.text, token.logprob, to_python(token.top),
                                 to_python(token.finish_reason), token.num_proposed, token.num_accepted));
    return list;
  }

  py::list next_finished() {
    py::list list;
    while (list.empty() && !done()) {
      for (GeneratedToken& token : run_step()) {
        const int64_t number = token.request;
        Running& running = running_.at(number);
        running.result.append(std::move(token), running.num_logprobs);
        if (!running.result.finish_reason) continue;
        list.append(result_tuple(number, running.result));
        running_.erase(number);
      }
    }
    return list;
  }

 private:
  struct Running {
    int64_t num_logprobs = -1;
    GenerationResult result;
  };

  static PythonInspector* inspector_of(PyObject* self) {
    const bool is_made = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().holder_constructed();
    return is_made ? py::cast<GenerationRun&>(py::handle(self)).inspector_.get() : nullptr;
  }

  std::vector<GeneratedToken> run_step() {
    if (unreported_.empty()) {
      const WithoutGil unlocked;
      unreported_ = generator_.step();
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C; who goes on gets these tokens first
    return std::exchange(unreported_, {});
  }

  static py::tuple result_tuple(int64_t number, const GenerationResult& result) {
    py::list top;
    for (const auto& tokens : result.top) top.append(to_python(tokens));
    const auto& logprobs = result.logprobs;
    return py::make_tuple(number, py::cast(result.tokens), result.text,
                          py::array_t<float>(static_cast<py::ssize_t>(logprobs.size()), logprobs.data()), top,
                          to_python(result.finish_reason), result.num_proposed, result.num_accepted);
  }

  std::shared_ptr<PythonInspector> inspector_;
  Generator generator_;
  std::vector<GeneratedToken> unreported_;  // of the last step
  std::unordered_map<int64_t, Running> running_;
};

}  // namespace

void bind_generate(py::module_& m) {
  const SamplingOptions defaults;
  py::class_<SamplingOptions>(m, "SamplingOptions", "How the next token is chosen; names as in transformers.")
      .def(py::init(&make_options), py::kw_only(), py::arg("do_sample") = defaults.do_sample,
           py::arg("temperature") = defaults.temperature, py::arg("top_k") = defaults.top_k, py::arg("top_p") = defaults.top_p,
           py::arg("min_p") = defaults.min_p, py::arg("typical_p") = defaults.typical_p,
           py::arg("repetition_penalty") = defaults.repetition_penalty, py::arg("presence_penalty") = defaults.presence_penalty,
           py::arg("frequency_penalty") = defaults.frequency_penalty,
           py::arg("no_repeat_ngram_size") = defaults.no_repeat_ngram_size,
           py::arg("logit_bias") = std::vector<std::pair<int32_t, float>>());

  py::class_<GenerationEngine, std::shared_ptr<GenerationEngine>>(
      m, "GenerationEngine", "A model and its tokenizer, ready for any number of generators.")
      .def(py::init<std::shared_ptr<Model>>(), py::arg("model").none(false), py::call_guard<WithoutGil>());

  const py::call_guard<WithoutGil> unlocked;  // while another thread's step copies keys and values
  py::class_<PrefixCache, std::shared_ptr<PrefixCache>>(
      m, "PrefixCache", "Keys and values of sequences that were computed before, for those that begin alike. Thread-safe.")
      .def(py::init([](const Model& model, int64_t max_bytes) {
             return std::make_shared<PrefixCache>(model.kv_layout(), max_bytes);
           }),
           py::arg("model"), py::arg("max_bytes"))
      .def_property_readonly("size_bytes", py::cpp_function(&PrefixCache::size_bytes, unlocked),
                             "Bytes of keys and values that it holds.")
      .def_property_readonly("max_bytes", &PrefixCache::max_bytes, "The most bytes of keys and values that it may hold.")
      .def_property_readonly("num_tokens_read", py::cpp_function(&PrefixCache::num_tokens_read, unlocked),
                             "Tokens that were found in it so far and need not be computed.");

  py::class_<GenerationRun>(m, "Generator", py::custom_type_setup(&GenerationRun::let_collect),
                            "Generates for any number of requests at once. One user at a time.")
      .def(py::init<const std::shared_ptr<GenerationEngine>&, int64_t, int64_t, const std::optional<std::shared_ptr<Model>>&,
                    const std::optional<std::shared_ptr<PrefixCache>>&, const std::optional<NamesAndFunction>&>(),
           py::arg("engine").none(false), py::kw_only(), py::arg("max_active") = GeneratorLimits().max_active,
           py::arg("max_kv_bytes") = GeneratorLimits().max_kv_bytes, py::arg("draft") = py::none(),
           py::arg("prefix_cache") = py::none(), py::arg("inspector") = py::none(),
           "max_kv_bytes 0: half of the memory that is free. draft: a model that proposes tokens. inspector: names of "
           "activations and a function, as Model.inspect takes them; then each prompt is read in one pass.")
      .def("add", &GenerationRun::add, py::arg("prompt"), py::arg("sampling"), py::kw_only(), py::arg("max_new_tokens"),
           py::arg("stop"), py::arg("eos_token_ids"), py::arg("seed"), py::arg("sequence") = 0, py::arg("num_logprobs") = -1,
           "Queue a request; returns its number, counting from 0.")
      .def_property_readonly("done", &GenerationRun::done, "True when every request has ended.")
      .def_property_readonly("num_waiting", &GenerationRun::num_waiting, "Requests that have not begun.")
      .def_property_readonly("max_kv_bytes", &GenerationRun::max_kv_bytes,
                             "The most bytes of keys and values of requests that run at once.")
      .def("step", &GenerationRun::step,
           "Run the model once; returns a list of (request, id, text, logprob, top, finish_reason or None, num_proposed, "
           "num_accepted), id -1 for no token; the last two with a request's last token.")
      .def("next_finished", &GenerationRun::next_finished,
           "Run until requests end; returns a list of (request, tokens, text, logprobs, top, finish_reason, num_proposed, "
           "num_accepted), empty when all have.");

  m.def("filter_logits", &filter_logits, py::arg("logits"), py::arg("sampling"), py::kw_only(),
        py::arg("prompt") = std::vector<int32_t>(), py::arg("generated") = std::vector<int32_t>(),
        "Tokens of one row of logits that the options leave: (ids int32, scores float32, weights int64), ids ascending.");
  m.def("sample_logits", &sample_logits, py::arg("logits"), py::arg("sampling"), py::kw_only(),
        py::arg("prompt") = std::vector<int32_t>(), py::arg("generated") = std::vector<int32_t>(), py::arg("seed") = 0,
        py::arg("sequence") = 0, py::arg("first_step") = 0, py::arg("num_draws") = 1, py::arg("threads") = 1,
        "Tokens drawn from one row of logits at `num_draws` steps, int32.");
  m.def(
      "largest", &largest_of, py::arg("values"), py::arg("count"),
      "The places of the `count` largest of values [n] (all, if there are fewer) as int64, the largest first, the lower place "
      "of equals, without those that are NaN.");
  m.def("log_softmax", &log_softmax, py::arg("logits"),
        "Log-probabilities of rows of logits, float32 [num_rows, vocab_size], with the same bits on every machine.");
  m.def("philox4x32_10", &philox4x32_10, py::arg("counter"), py::arg("key"), "One block of the Philox generator.");
}

}  // namespace pythia
