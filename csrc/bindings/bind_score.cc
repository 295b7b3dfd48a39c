// Scores of many sequences, and the windows of perplexity.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "score/windows.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Request = std::pair<std::vector<int32_t>, int64_t>;

// For each request (log-probabilities float32, most likely ids int32) of tokens[first_target..].
py::list score_sequences(std::shared_ptr<Model> model, std::vector<Request> requests, bool share_prefixes,
                         int64_t rows_per_pass, int64_t cache_bytes) {
  std::vector<ScoreRequest> all;
  for (auto& [tokens, first_target] : requests) all.push_back({std::move(tokens), first_target});
  Scorer scorer(std::move(model), std::move(all),
                {.rows_per_pass = rows_per_pass, .cache_bytes = cache_bytes, .share_prefixes = share_prefixes});
  while (!scorer.done()) {
    {
      const py::gil_scoped_release unlocked;
      scorer.step();
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C
  }
  py::list list;
  for (const std::vector<TokenScore>& scores : scorer.scores()) {
    py::array_t<float> logprobs(static_cast<py::ssize_t>(scores.size()));
    py::array_t<int32_t> argmax(static_cast<py::ssize_t>(scores.size()));
    for (std::size_t i = 0; i < scores.size(); ++i) {
      logprobs.mutable_data()[i] = scores[i].logprob;
      argmax.mutable_data()[i] = scores[i].argmax;
    }
    list.append(py::make_tuple(logprobs, argmax));
  }
  return list;
}

std::vector<Request> to_python(std::vector<ScoreRequest> windows) {
  std::vector<Request> result;
  for (ScoreRequest& window : windows) result.emplace_back(std::move(window.tokens), window.first_target);
  return result;
}

}  // namespace

void bind_score(py::module_& m) {
  const ScorerLimits defaults;
  m.def("score_sequences", &score_sequences, py::arg("model").none(false), py::arg("requests"), py::kw_only(),
        py::arg("share_prefixes") = defaults.share_prefixes, py::arg("rows_per_pass") = defaults.rows_per_pass,
        py::arg("cache_bytes") = defaults.cache_bytes,
        "Score tokens[first_target:] of each (tokens, first_target); returns (log-probabilities float32, most likely ids "
        "int32) for each, in order. The options change speed and memory, never a bit.");
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
