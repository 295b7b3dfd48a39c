// Scores of many sequences, and the windows of perplexity.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "score/windows.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Request = std::pair<std::vector<int32_t>, int64_t>;

std::unique_ptr<Scorer> make_scorer(std::shared_ptr<Model> model, std::vector<Request> requests, bool share_prefixes,
                                    int64_t rows_per_pass, int64_t cache_bytes) {
  std::vector<ScoreRequest> all;
  for (auto& [tokens, first_target] : requests) all.push_back({std::move(tokens), first_target});
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

py::list score_sequences(std::shared_ptr<Model> model, std::vector<Request> requests, bool share_prefixes,
                         int64_t rows_per_pass, int64_t cache_bytes) {
  const auto scorer = make_scorer(std::move(model), std::move(requests), share_prefixes, rows_per_pass, cache_bytes);
  while (!scorer->done()) step(*scorer);
  py::list list;
  for (const std::vector<TokenScore>& scores : scorer->scores()) list.append(score_arrays(scores));
  return list;
}

std::vector<Request> to_python(std::vector<ScoreRequest> windows) {
  std::vector<Request> result;
  for (ScoreRequest& window : windows) result.emplace_back(std::move(window.tokens), window.first_target);
  return result;
}

}  // namespace

py::tuple score_arrays(std::span<const TokenScore> scores) {
  const auto count = static_cast<py::ssize_t>(scores.size());
  py::array_t<float> logprobs(count), entropies(count);
  py::array_t<int32_t> argmax(count), ranks(count);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    logprobs.mutable_data()[i] = scores[i].logprob;
    entropies.mutable_data()[i] = scores[i].entropy;
    argmax.mutable_data()[i] = scores[i].argmax;
    ranks.mutable_data()[i] = scores[i].rank;
  }
  return py::make_tuple(logprobs, argmax, ranks, entropies);
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
           "(log-probabilities float32, most likely ids int32, ranks int32, entropies float32) of an ended request's targets.")
      .def_property_readonly("done", &Scorer::done)
      .def_property_readonly("num_inputs", &Scorer::num_inputs, "Tokens that the model reads, of all requests.")
      .def_property_readonly("num_inputs_done", &Scorer::num_inputs_done, "Those of them that are run, or found in a cache.");
  m.def("score_sequences", &score_sequences, py::arg("model").none(false), py::arg("requests"), py::kw_only(),
        py::arg("share_prefixes") = defaults.share_prefixes, py::arg("rows_per_pass") = defaults.rows_per_pass,
        py::arg("cache_bytes") = defaults.cache_bytes, "A Scorer's scores of all requests, in order.");
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
        return to_python(strided_windows(tokens, context_length, stride));
      },
      py::arg("tokens"), py::arg("context_length"), py::arg("stride"),
      "Requests of score_sequences: the windows of Hugging Face's perplexity guide.");
}

}  // namespace pythia
