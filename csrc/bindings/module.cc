// The extension module pythia_cpu._core. Each layer binds itself in its own file; nothing else includes pybind11.
#include <pybind11/pybind11.h>

#include <system_error>

#include "bindings/bindings.h"
#include "common/errors.h"

namespace py = pybind11;

namespace pythia {

std::string path_from_python(const py::str& path) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(path.ptr(), &bytes) == 0) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(bytes);
}

py::str path_to_python(std::string_view text) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

}  // namespace pythia

PYBIND11_MODULE(_core, m) {
  m.doc() = "C++ core of pythia_cpu; use the pythia_cpu package instead.";

  static PyObject* format_error = py::register_exception<pythia::FormatError>(m, "FormatError", PyExc_ValueError).ptr();
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const std::system_error& e) {
      // Two or three arguments give OSError's errno subclasses: FileNotFoundError, PermissionError, ...
      const auto* of_file = dynamic_cast<const pythia::FileError*>(&e);
      const auto os_error = py::reinterpret_borrow<py::object>(PyExc_OSError);
      const py::object error = of_file ? os_error(e.code().value(), of_file->reason(), pythia::path_to_python(of_file->path()))
                                       : os_error(e.code().value(), pythia::path_to_python(e.what()));
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    } catch (const pythia::FormatError& e) {
      PyErr_SetObject(format_error, pythia::path_to_python(e.what()).ptr());
    }
  });

  pythia::bind_system(m);
  pythia::bind_format(m);
  pythia::bind_kernels(m);
  pythia::bind_text(m);
  pythia::bind_model(m);
  pythia::bind_inspection(m);
  pythia::bind_generate(m);
  pythia::bind_score(m);
}
