// Scores of many sequences, and the windows of perplexity.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <variant>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "common/exact_math.h"
#include "common/thread_pool.h"
#include "kernels/dispatch.h"
#include "score/divergence.h"
#include "score/windows.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Request = std::pair<std::vector<int32_t>, int64_t>;
using Ids = py::array_t<int32_t, py::array::c_style>;
using IdsRequest = std::pair<std::variant<Ids, std::vector<int32_t>>, int64_t>;  // arrays are no lists of Python's numbers

std::unique_ptr<Scorer> make_scorer(std::shared_ptr<Model> model, const std::vector<IdsRequest>& requests, bool share_prefixes,
                                    int64_t rows_per_pass, int64_t cache_bytes) {
  std::vector<ScoreRequest> all;
  for (const auto& [ids, first_target] : requests) {
    if (const Ids* array = std::get_if<Ids>(&ids); array != nullptr) {
      if (array->ndim() != 1) throw std::invalid_argument("[score] token ids have another shape, expected [n]");
      all.push_back({{array->data(), array->data() + array->size()}, first_target});
    } else {
      all.push_back({std::get<std::vector<int32_t>>(ids), first_target});
    }
  }
  const ScorerLimits limits = {.rows_per_pass = rows_per_pass, .cache_bytes = cache_bytes, .share_prefixes = share_prefixes};
  return std::make_unique<Scorer>(std::move(model), std::move(all), limits);
}

std::vector<std::size_t> step(Scorer& scorer) {
  std::vector<std::size_t> ended;
  {
    const WithoutGil unlocked;
    ended = scorer.step();
  }
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C
  return ended;
}

py::tuple scores_of(const Scorer& scorer, std::size_t request) {
  if (request >= scorer.scores().size()) throw py::index_error("no such request");
  return score_arrays(scorer.scores()[request]);
}

py::list score_sequences(std::shared_ptr<Model> model, const std::vector<IdsRequest>& requests, bool share_prefixes,
                         int64_t rows_per_pass, int64_t cache_bytes) {
  const auto scorer = make_scorer(std::move(model), requests, share_prefixes, rows_per_pass, cache_bytes);
  while (!scorer->done()) step(*scorer);
  py::list list;
  for (const std::vector<TokenScore>& scores : scorer->scores()) list.append(score_arrays(scores));
  return list;
}

using Logits = py::array_t<float, py::array::c_style>;

// Calls body(row, the number of its first logit) for every row of [num_rows, vocab_size], on up to `threads` threads.
template <class Body>
void for_each_row(const Logits& logits, int threads, Body body) {
  const int64_t num_rows = logits.shape(0), vocab_size = logits.shape(1);
  const WithoutGil unlocked;
  ThreadPool pool(static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(1, num_rows))));
  pool.run([&](Team& team) { team.for_each(num_rows, [&](int64_t row) { body(row, row * vocab_size); }); });
}

bool are_rows(const Logits& logits) { return logits.ndim() == 2 && logits.shape(1) > 0; }

std::string shape_of(const py::array& array) {
  std::string text;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return "[" + text + "]";
}

py::array_t<float> kl_divergences(const Logits& p_logits, const Logits& q_logits, int threads) {
  if (!are_rows(p_logits) || !are_rows(q_logits) || p_logits.shape(0) != q_logits.shape(0) ||
      p_logits.shape(1) != q_logits.shape(1))
    throw std::invalid_argument("[kl_divergence] found " + shape_of(p_logits) + " and " + shape_of(q_logits) +
                                ", expected two arrays of one shape [num_rows, vocab_size]");
  py::array_t<float> found(p_logits.shape(0));
  const KernelTable& kernels = select_kernels();
  const auto vocab_size = static_cast<std::size_t>(p_logits.shape(1));
  for_each_row(p_logits, threads,
               [&, p = p_logits.data(), q = q_logits.data(), out = found.mutable_data()](int64_t row, int64_t i) {
                 out[row] = kl_divergence(kernels, {p + i, vocab_size}, {q + i, vocab_size});
               });
  return found;
}

py::array_t<double> log_sum_exps(const Logits& logits, int threads) {
  if (!are_rows(logits))
    throw std::invalid_argument("[log_sum_exps] found " + shape_of(logits) + ", expected [num_rows, vocab_size]");
  py::array_t<double> found(logits.shape(0));
  const KernelTable& kernels = select_kernels();
  const auto vocab_size = static_cast<std::size_t>(logits.shape(1));
  for_each_row(logits, threads, [&, in = logits.data(), out = found.mutable_data()](int64_t row, int64_t i) {
    out[row] = log_sum_exp(kernels, {in + i, vocab_size});
  });
  return found;
}

py::tuple score_rows(const Logits& logits, const py::array_t<int32_t, py::array::c_style>& targets, int threads) {
  if (!are_rows(logits) || targets.ndim() != 1 || targets.shape(0) != logits.shape(0))
    throw std::invalid_argument("[score_rows] found " + shape_of(logits) + " and " + shape_of(targets) +
                                ", expected [num_rows, vocab_size] and [num_rows]");
  const std::span<const int32_t> ids(targets.data(), static_cast<std::size_t>(targets.size()));
  if (std::ranges::any_of(ids, [&](int32_t id) { return id < 0 || id >= logits.shape(1); }))
    throw std::invalid_argument("[score_rows] a target is no token of " + std::to_string(logits.shape(1)));
  const auto vocab_size = static_cast<std::size_t>(logits.shape(1));
  const auto num_chunks = static_cast<std::size_t>(ceil_div(logits.shape(1), kLogitChunk));
  std::vector<TokenScore> scores(ids.size());
  std::vector<LogitSummary> chunks(ids.size() * num_chunks);
  const KernelTable& kernels = select_kernels();
  for_each_row(logits, threads, [&, in = logits.data()](int64_t row, int64_t i) {
    const auto at = static_cast<std::size_t>(row);
    scores[at] = score_row(kernels, {in + i, vocab_size}, ids[at], std::span(chunks).subspan(at * num_chunks, num_chunks));
  });
  return score_arrays(scores);
}

std::vector<Request> to_python(std::vector<ScoreRequest> windows) {
  std::vector<Request> result;
  for (ScoreRequest& window : windows) result.emplace_back(std::move(window.tokens), window.first_target);
  return result;
}

}  // namespace

py::tuple score_arrays(std::span<const TokenScore> scores) {
  const auto count = static_cast<py::ssize_t>(scores.size());
  py::array_t<float> logprobs(count), entropies(count), varentropies(count);
  py::array_t<int32_t> argmax(count), ranks(count);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    logprobs.mutable_data()[i] = scores[i].logprob;
    entropies.mutable_data()[i] = scores[i].entropy;
    varentropies.mutable_data()[i] = scores[i].varentropy;
    argmax.mutable_data()[i] = scores[i].argmax;
    ranks.mutable_data()[i] = scores[i].rank;
  }
  return py::make_tuple(logprobs, argmax, ranks, entropies, varentropies);
}

void bind_score(py::module_& m) {
  const ScorerLimits defaults;
  py::class_<Scorer>(m, "Scorer",
                     "Scores tokens[first_target:] of each (tokens, first_target), pass by pass. The options change speed and "
                     "memory, never a bit. One user at a time.")
      .def(py::init(&make_scorer), py::arg("model").none(false), py::arg("requests"), py::kw_only(),
           py::arg("share_prefixes") = defaults.share_prefixes, py::arg("rows_per_pass") = defaults.rows_per_pass,
           py::arg("cache_bytes") = defaults.cache_bytes)
      .def("step", &step,
           "One pass of the model. Returns the requests that it ended, by number; those without targets are in none.")
      .def("scores", &scores_of, py::arg("request"),
           "(log-probabilities float32, most likely ids int32, ranks int32, entropies and varentropies float32) of an ended "
           "request's targets.")
      .def_property_readonly("done", &Scorer::done, "True when every request has ended.")
      .def_property_readonly("num_inputs", &Scorer::num_inputs, "Tokens that the model reads, of all requests.")
      .def_property_readonly("num_inputs_done", &Scorer::num_inputs_done, "Those of them that are run, or found in a cache.");
  m.def("score_sequences", &score_sequences, py::arg("model").none(false), py::arg("requests"), py::kw_only(),
        py::arg("share_prefixes") = defaults.share_prefixes, py::arg("rows_per_pass") = defaults.rows_per_pass,
        py::arg("cache_bytes") = defaults.cache_bytes, "A Scorer's scores of all requests, in order.");
  m.def("score_rows", &score_rows, py::arg("logits"), py::arg("targets"), py::kw_only(), py::arg("threads") = 1,
        "A Scorer's scores of one target id for each row of logits [num_rows, vocab_size], with the same bits.");
  m.def("kl_divergence", &kl_divergences, py::arg("p_logits"), py::arg("q_logits"), py::kw_only(), py::arg("threads") = 1,
        "KL(P || Q) in nats of each two rows of logits [num_rows, vocab_size], float32 [num_rows], with the same bits on every "
        "machine.");
  m.def("log_sum_exps", &log_sum_exps, py::arg("logits"), py::kw_only(), py::arg("threads") = 1,
        "The log of the sum of exp(logit) of each row of logits [num_rows, vocab_size], float64 [num_rows]; NaN where one is "
        "NaN or infinity.");
  m.def("exp_exact", &exp_exact, py::arg("x"),
        "exp(x) within 1 ulp, infinity where that overflows: the same on every machine.");
  m.def(
      "rolling_windows",
      [](const std::vector<int32_t>& tokens, int32_t prefix_token, int64_t context_length) {
        return to_python(rolling_windows(tokens, prefix_token, context_length));
      },
      py::arg("tokens"), py::arg("prefix_token"), py::arg("context_length"),
      "Requests of score_sequences: lm-evaluation-harness's rolling windows.");
  m.def(
      "strided_windows",
      [](const std::vector<int32_t>& tokens, int64_t context_length, int64_t stride) {
        std::vector<std::pair<Ids, int64_t>> result;  // as arrays: with small strides they have many times the text's tokens
        for (const ScoreRequest& window : strided_windows(tokens, context_length, stride))
          result.emplace_back(Ids(static_cast<py::ssize_t>(window.tokens.size()), window.tokens.data()), window.first_target);
        return result;
      },
      py::arg("tokens"), py::arg("context_length"), py::arg("stride"),
      "Requests of score_sequences: the windows of Hugging Face's perplexity guide.");
}

}  // namespace pythia
