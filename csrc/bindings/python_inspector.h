// Activations shown to a Python function.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/gil.h"
#include "model/inspection.h"

namespace pythia {

// Calls function(sequence, name, float32 array) with a copy of each activation of these names; an array that it returns, of the
// same shape, takes the activation's place. Used without the GIL, made and dropped with it.
class PythonInspector : public Inspector {
 public:
  PythonInspector(std::set<std::string> names, pybind11::function function, std::string replaced_residual = {})
      : names_(std::move(names)), function_(std::move(function)), replaced_residual_(std::move(replaced_residual)) {}

  bool wants(const std::string& name) override {
    const WithGil locked;
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();  // Ctrl-C ends the pass at its next activation
    return names_.contains(name);
  }

  bool visit(int64_t sequence, const std::string& name, std::span<const int64_t> shape, std::span<float> values) override {
    const WithGil locked;
    if (!function_) throw std::runtime_error("[inspect] the function was collected as garbage: " + name);
    // Filled here, not by NumPy: that gives the lock up meanwhile, and a thread may come to its end where it takes it back. So
    // there is no object of C++ between here and Python's code, either.
    pybind11::array_t<float> shown(shape);
    std::ranges::copy(values, shown.mutable_data());
    const pybind11::str name_object(name);
    const pybind11::int_ sequence_object(sequence);
    PyObject* const returned = call_or_wait_for_the_end([&] {
      return PyObject_CallFunctionObjArgs(function_.ptr(), sequence_object.ptr(), name_object.ptr(), shown.ptr(), nullptr);
    });
    if (returned == nullptr) throw pybind11::error_already_set();
    const auto result = pybind11::reinterpret_steal<pybind11::object>(returned);
    if (result.is_none()) return false;
    const auto changed = result.cast<pybind11::array_t<float, pybind11::array::c_style>>();
    if (!std::ranges::equal(shape, std::span(changed.shape(), static_cast<std::size_t>(changed.ndim()))))
      throw std::invalid_argument("[inspect] the function changed the shape of " + name);
    if (std::memcmp(changed.data(), values.data(), values.size_bytes()) == 0) return false;
    std::ranges::copy_n(changed.data(), static_cast<std::ptrdiff_t>(values.size()), values.begin());
    return true;
  }

  std::string replaced_residual() override { return replaced_residual_; }

  // For Python's collector of cycles: the function may hold what holds this. With the lock.
  const pybind11::function& function() const { return function_; }
  void drop_function() { function_ = pybind11::function(); }

 private:
  const std::set<std::string> names_;
  pybind11::function function_;
  const std::string replaced_residual_;
};

}  // namespace pythia
