// Forward passes whose activations Python sees and changes.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/python_inspector.h"
#include "model/inspection.h"
#include "model/model.h"

namespace py = pybind11;

namespace pythia {
namespace {

using TokenArray = py::array_t<int32_t, py::array::c_style>;

// With a cache the one sequence follows those in it.
py::array_t<float> inspect(Model& model, const std::vector<TokenArray>& sequences, std::set<std::string> names,
                           py::function function, const std::variant<bool, std::vector<int64_t>>& num_logits,
                           std::optional<KvCache*> cache, std::string replaced_residual) {
  if (cache && sequences.size() != 1)
    throw std::invalid_argument("[inspect] found " + std::to_string(sequences.size()) +
                                " sequences with a cache, expected one");
  const auto* const some = std::get_if<std::vector<int64_t>>(&num_logits);
  if (some && some->size() != sequences.size())
    throw std::invalid_argument("[inspect] found logits of " + std::to_string(some->size()) + " sequences, expected " +
                                std::to_string(sequences.size()));
  std::vector<SequenceSlice> slices;
  int64_t num_rows = 0;
  for (const TokenArray& tokens : sequences) {
    if (tokens.ndim() != 1)
      throw std::invalid_argument("[inspect] tokens have " + std::to_string(tokens.ndim()) + " dimensions, expected one");
    const int64_t size = tokens.size(), wanted = some ? (*some)[slices.size()] : std::get<bool>(num_logits) ? size : 0;
    slices.push_back({cache.value_or(nullptr), {tokens.data(), static_cast<std::size_t>(size)}, wanted});
    num_rows += wanted;
  }
  py::array_t<float> logits(
      {static_cast<py::ssize_t>(std::max<int64_t>(0, num_rows)), static_cast<py::ssize_t>(model.config().vocab_size)});
  PythonInspector inspector(std::move(names), std::move(function), std::move(replaced_residual));
  float* out = logits.mutable_data();
  const WithoutGil unlocked;
  model.inspect(slices, inspector, out);
  return logits;
}

using RowArray = py::array_t<float, py::array::c_style>;

py::array_t<float> unembed(Model& model, const RowArray& residuals) {
  if (residuals.ndim() != 2 || residuals.shape(1) != model.config().hidden_size)
    throw std::invalid_argument("[unembed] residuals are no array [rows, " + std::to_string(model.config().hidden_size) + "]");
  py::array_t<float> logits({residuals.shape(0), static_cast<py::ssize_t>(model.config().vocab_size)});
  float* out = logits.mutable_data();
  const std::span<const float> rows(residuals.data(), static_cast<std::size_t>(residuals.size()));
  const WithoutGil unlocked;
  model.unembed(rows, out);
  return logits;
}

}  // namespace

void bind_inspection(py::module_& m) {
  auto model_class = py::reinterpret_borrow<py::class_<Model, std::shared_ptr<Model>>>(m.attr("Model"));
  model_class
      .def("inspect", &inspect, py::arg("sequences"), py::arg("names"), py::arg("function"), py::arg("num_logits") = true,
           py::arg("cache") = py::none(), py::arg("replaced_residual") = "",
           "float32 logits of sequences that run together, [all tokens, vocab_size]; with a list `num_logits` of so many last "
           "tokens of each, with False of none. At each activation called one of `names`, function(sequence, name, float32 "
           "array) is called for each with a copy of it; an array it returns, of the same "
           "shape, takes the activation's place. Without logits it ends after the last layer that has one of `names`. With a "
           "`cache` the tokens of one sequence follow those in it, and are appended unless this raises; "
           "the function must not use it. `replaced_residual`: the first of `names`, a hook_resid_pre or hook_resid_post which "
           "the function replaces whatever it is; without a cache nothing is computed before it.")
      .def("unembed", &unembed, py::arg("residuals"),
           "float32 logits [rows, vocab_size] of finite residual streams [rows, hidden_size]: final LayerNorm and head.")
      .def_property_readonly(
          "hook_names", [](const Model& model) { return hook_names(model.config()); },
          "Names of all activations, in the order of the pass.");
}

}  // namespace pythia
