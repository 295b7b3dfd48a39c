// Forward passes whose activations Python sees and changes.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <stdexcept>

#include "bindings/bindings.h"
#include "model/inspection.h"
#include "model/model.h"

namespace py = pybind11;

namespace pythia {
namespace {

// Shows activations to a Python function. Called without the GIL.
class PythonInspector : public Inspector {
 public:
  PythonInspector(std::set<std::string> names, py::function function)
      : names_(std::move(names)), function_(std::move(function)) {}

  bool wants(const std::string& name) override {
    const py::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C ends the pass at its next activation
    return names_.contains(name);
  }

  bool visit(const std::string& name, std::span<const int64_t> shape, std::span<float> values) override {
    const py::gil_scoped_acquire locked;
    const py::array_t<float> shown(shape, values.data());
    if (!shown) throw py::error_already_set();  // no memory: pybind11 does not look at what NumPy's copy gives
    const py::object result = function_(name, shown);
    if (result.is_none()) return false;
    const auto changed = result.cast<py::array_t<float, py::array::c_style>>();
    if (!std::ranges::equal(shape, std::span(changed.shape(), static_cast<std::size_t>(changed.ndim()))))
      throw std::invalid_argument("[inspect] the function changed the shape of " + name);
    if (std::memcmp(changed.data(), values.data(), values.size_bytes()) == 0) return false;
    std::ranges::copy_n(changed.data(), static_cast<std::ptrdiff_t>(values.size()), values.begin());
    return true;
  }

 private:
  const std::set<std::string> names_;
  const py::function function_;
};

using TokenArray = py::array_t<int32_t, py::array::c_style>;

py::array_t<float> inspect(Model& model, const TokenArray& tokens, std::set<std::string> names, py::function function,
                           bool want_logits, std::optional<KvCache*> cache) {
  if (tokens.ndim() != 1)
    throw std::invalid_argument("[inspect] tokens have " + std::to_string(tokens.ndim()) + " dimensions, expected one");
  py::array_t<float> logits({want_logits ? tokens.size() : 0, static_cast<py::ssize_t>(model.config().vocab_size)});
  PythonInspector inspector(std::move(names), std::move(function));
  const std::span<const int32_t> ids(tokens.data(), static_cast<std::size_t>(tokens.size()));
  float* out = want_logits ? logits.mutable_data() : nullptr;
  const py::gil_scoped_release unlocked;
  model.inspect(ids, inspector, out, cache.value_or(nullptr));
  return logits;
}

using RowArray = py::array_t<float, py::array::c_style>;

py::array_t<float> unembed(Model& model, const RowArray& residuals) {
  if (residuals.ndim() != 2 || residuals.shape(1) != model.config().hidden_size)
    throw std::invalid_argument("[unembed] residuals are no array [rows, " + std::to_string(model.config().hidden_size) + "]");
  py::array_t<float> logits({residuals.shape(0), static_cast<py::ssize_t>(model.config().vocab_size)});
  float* out = logits.mutable_data();
  const std::span<const float> rows(residuals.data(), static_cast<std::size_t>(residuals.size()));
  const py::gil_scoped_release unlocked;
  model.unembed(rows, out);
  return logits;
}

}  // namespace

void bind_inspection(py::module_& m) {
  auto model_class = py::reinterpret_borrow<py::class_<Model, std::shared_ptr<Model>>>(m.attr("Model"));
  model_class
      .def("inspect", &inspect, py::arg("tokens"), py::arg("names"), py::arg("function"), py::arg("logits") = true,
           py::arg("cache") = py::none(),
           "float32 logits [tokens, vocab_size] of one sequence. At each activation called one of `names`, function(name, "
           "float32 array) is called with a copy of it; an array it returns, of the same shape, takes the activation's place. "
           "`logits` False: no rows of them, and it ends after the last layer that has one of `names`. With a `cache` the "
           "tokens follow those in it, and are appended unless this raises; the function must not use it.")
      .def("unembed", &unembed, py::arg("residuals"),
           "float32 logits [rows, vocab_size] of finite residual streams [rows, hidden_size]: final LayerNorm and head.")
      .def_property_readonly(
          "hook_names", [](const Model& model) { return hook_names(model.config()); },
          "Names of all activations, in the order of the pass.");
}

}  // namespace pythia
