// The model and its caches: forward passes over token arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "model/fingerprint.h"
#include "model/model.h"

namespace py = pybind11;

namespace pythia {
namespace {

using TokenArray = py::array_t<int32_t, py::array::c_style>;

std::span<const int32_t> token_span(const TokenArray& tokens) {
  if (tokens.ndim() != 1)
    throw std::invalid_argument("[forward] tokens have " + std::to_string(tokens.ndim()) + " dimensions, expected one");
  return {tokens.data(), static_cast<std::size_t>(tokens.size())};
}

using LogitArray = py::array_t<float, py::array::c_style>;

// (cache, tokens, num_logits) for each sequence -> float32 [sum of num_logits, vocab_size], a new array or `given`.
LogitArray forward(Model& model, const std::vector<std::tuple<KvCache*, TokenArray, int64_t>>& sequences,
                   const std::optional<LogitArray>& given) {
  std::vector<SequenceSlice> slices;
  py::ssize_t rows = 0;
  for (const auto& [cache, tokens, num_logits] : sequences) {
    if (num_logits < 0 || num_logits > tokens.size())
      throw std::invalid_argument("[forward] logits of " + std::to_string(num_logits) + " tokens asked for, expected 0.." +
                                  std::to_string(tokens.size()));
    slices.push_back({cache, token_span(tokens), num_logits});
    rows += num_logits;
  }
  const auto columns = static_cast<py::ssize_t>(model.config().vocab_size);
  if (given && (given->ndim() != 2 || given->shape(0) != rows || given->shape(1) != columns))
    throw std::invalid_argument("[forward] out has another shape, expected [" + std::to_string(rows) + ", " +
                                std::to_string(columns) + "]");
  LogitArray logits = given ? *given : LogitArray({rows, columns});
  float* out = logits.mutable_data();
  const WithoutGil unlocked;
  model.forward(slices, out);
  return logits;
}

// (cache, tokens, num_choices) for each sequence -> int32 [sum of num_choices].
py::array_t<int32_t> choose(Model& model, const std::vector<std::tuple<KvCache*, TokenArray, int64_t>>& sequences) {
  std::vector<SequenceSlice> slices;
  std::size_t rows = 0;
  for (const auto& [cache, tokens, num_choices] : sequences) {
    if (num_choices < 0 || num_choices > tokens.size())
      throw std::invalid_argument("[choose] choices after " + std::to_string(num_choices) + " tokens asked for, expected 0.." +
                                  std::to_string(tokens.size()));
    slices.push_back({cache, token_span(tokens), num_choices});
    rows += static_cast<std::size_t>(num_choices);
  }
  std::vector<GreedyChoice> choices(rows);
  {
    const WithoutGil unlocked;
    model.choose(slices, choices.data());
  }
  py::array_t<int32_t> ids(static_cast<py::ssize_t>(rows));
  for (std::size_t i = 0; i < rows; ++i) ids.mutable_data()[i] = choices[i].id;
  return ids;
}

// (cache, tokens, targets) for each sequence -> score_arrays of all targets.
py::tuple score(Model& model, const std::vector<std::tuple<KvCache*, TokenArray, TokenArray>>& sequences) {
  std::vector<SequenceSlice> slices;
  std::vector<int32_t> targets;
  for (const auto& [cache, tokens, next] : sequences) {
    const std::span<const int32_t> wanted = token_span(next);
    slices.push_back({cache, token_span(tokens), static_cast<int64_t>(wanted.size())});
    targets.insert(targets.end(), wanted.begin(), wanted.end());
  }
  std::vector<TokenScore> scores(targets.size());
  {
    const WithoutGil unlocked;
    model.score(slices, targets, scores.data());
  }
  return score_arrays(scores);
}

std::unique_ptr<KvCache> fork(const Model& model, const KvCache& cache) {
  const WithoutGil unlocked;
  auto copy = std::make_unique<KvCache>(model.kv_layout(), cache.capacity());
  copy->copy_prefix(cache, cache.length());
  return copy;
}

}  // namespace

void bind_model(py::module_& m) {
  // Both classes first: signatures name the other one.
  py::class_<KvCache> cache_class(m, "KvCache", "Keys and values of one sequence. One user at a time.");
  py::class_<Model, std::shared_ptr<Model>> model_class(
      m, "Model", "A GPT-NeoX model over an open .pcpu file. Safe to share between threads.");

  cache_class
      .def(py::init([](const Model& model, std::optional<int64_t> capacity) {
             return std::make_unique<KvCache>(model.kv_layout(), capacity.value_or(model.config().max_position_embeddings));
           }),
           py::arg("model"), py::arg("capacity") = py::none(), "Room for `capacity` positions (default: the whole context).")
      .def_property_readonly("length", &KvCache::length, "Positions that hold keys and values.")
      .def("truncate", &KvCache::truncate, py::arg("length"), "Forget all positions from `length` on.")
      .def(
          "become",
          [](KvCache& cache, const KvCache& other, int64_t num_equal) { cache.copy_prefix(other, other.length(), num_equal); },
          py::arg("other"), py::arg("num_equal") = 0, py::call_guard<WithoutGil>(),
          "Take the positions of another cache in place of its own, of which the first num_equal are the same already.");

  model_class
      .def_static(
          "open",
          [](const py::str& path, int threads, const std::string& isa) {
            const std::string bytes = path_from_python(path);
            const WithoutGil unlocked;
            return Model::open(bytes, threads, isa);
          },
          py::arg("path"), py::arg("threads") = 0, py::arg("isa") = "",
          "Open a file; threads 0 means all physical cores, isa \"\" the environment's choice or the best.")
      .def_property_readonly(
          "file", [](const Model& model) { return std::const_pointer_cast<PcpuFile>(model.file().shared_from_this()); },
          "The file, a PcpuFile.")
      .def_property_readonly("isa", &Model::isa, "Name of the kernel table in use.")
      .def_property("threads", &Model::threads, py::cpp_function(&Model::set_threads, py::call_guard<WithoutGil>()),
                    "Threads of a forward pass.")
      .def("forward", &forward, py::arg("sequences"), py::arg("out").noconvert() = py::none(),
           "Append tokens to caches. sequences: list of (KvCache, int32 [n], num_logits); returns float32 logits "
           "[sum of num_logits, vocab_size] of each one's last tokens, in order; in `out`, if that is given.")
      .def("choose", &choose, py::arg("sequences"),
           "Append tokens to caches. sequences: list of (KvCache, int32 [n], num_choices); returns the most likely token, "
           "int32, "
           "after each one's last num_choices tokens, in order: the lowest id of equals, -1 where no logit is a number.")
      .def("score", &score, py::arg("sequences"),
           "Append tokens to caches and score what follows. sequences: list of (KvCache, int32 tokens, int32 targets), the "
           "targets following the last tokens; returns (log-probabilities float32, most likely ids int32, ranks int32, "
           "entropies and varentropies float32) of all targets.")
      .def("fingerprint", &logits_fingerprint, py::call_guard<WithoutGil>(),
           "The logits' fingerprint as this machine computes it (docs/format.md); PcpuFile.fingerprint is the stored one.")
      .def_property_readonly(
          "kv_bytes_per_position", [](const Model& model) { return model.kv_layout().bytes_per_position(); },
          "Bytes of a KvCache for each position of its capacity.")
      .def("fork", &fork, py::arg("cache"), "A copy of a cache.");
  m.attr("MAX_THREADS") = kMaxThreads;
  m.attr("ROWS_PER_PASS") = kRowsPerPass;
}

}  // namespace pythia
