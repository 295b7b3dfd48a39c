// Tokenizer for Python: text in and out as str, ids as list[int].
#include <pybind11/pybind11.h>

#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "text/tokenizer.h"

namespace py = pybind11;

namespace pythia {

namespace {

// Below this, giving up the interpreter lock costs more than it lets others do.
constexpr std::size_t kReleaseGilBytes = 4096;

// A Tokenizer together with the bytes it reads in place.
class BoundTokenizer {
 public:
  explicit BoundTokenizer(py::bytes section) : section_(std::move(section)), tokenizer_(view(section_)) {}

  py::list encode(const py::str& text) const {
    Py_ssize_t size = 0;
    const char* const utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (utf8 == nullptr) {
      PyErr_Clear();
      throw py::value_error(
          "[encode] text has a lone surrogate, expected Unicode text; clean it first, for example with "
          "text.encode('utf-8', 'replace').decode('utf-8')");
    }
    const std::string_view bytes(utf8, static_cast<std::size_t>(size));
    std::vector<int32_t> ids;
    {
      std::optional<WithoutGil> release;
      if (bytes.size() >= kReleaseGilBytes) release.emplace();
      ids = tokenizer_.encode(bytes);
    }
    py::list result(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      PyObject* const id = PyLong_FromLong(ids[i]);
      if (id == nullptr) throw py::error_already_set();
      PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), id);
    }
    return result;
  }

  py::str decode(const py::iterable& ids, bool skip_special_tokens) const {
    std::vector<int32_t> values;
    for (const py::handle item : ids) values.push_back(to_id(item));
    std::string text;
    {
      std::optional<WithoutGil> release;
      if (values.size() >= kReleaseGilBytes) release.emplace();
      text = tokenizer_.decode(values, skip_special_tokens);
    }
    return {text.data(), text.size()};
  }

  int32_t vocab_size() const { return tokenizer_.vocab_size(); }
  bool is_special(int64_t id) const { return tokenizer_.is_special(clamp(id)); }
  py::bytes token_bytes(int64_t id) const {
    const std::string_view bytes = tokenizer_.token_bytes(clamp(id));
    return {bytes.data(), bytes.size()};
  }
  py::bytes json() const { return {tokenizer_.json().data(), tokenizer_.json().size()}; }
  bool tokenizes_as(const BoundTokenizer& other) const { return tokenizer_.tokenizes_as(other.tokenizer_); }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  static std::span<const std::byte> view(const py::bytes& section) {
    const std::string_view bytes(section);
    return {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()};
  }

  // No file has ids this large: they name no token, whatever their value.
  static int32_t clamp(int64_t id) {
    constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
    return id < 0 ? -1 : static_cast<int32_t>(id < kMax ? id : kMax);
  }

  static int32_t to_id(py::handle item) {
    // NumPy integers answer __index__, floats do not.
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
    if (!index) throw py::error_already_set();
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
    if (overflow < 0 || (overflow == 0 && value < 0)) {
      throw py::value_error("[decode] token id is " + std::string(py::str(index)) + ", expected 0 or more");
    }
    return clamp(overflow > 0 ? std::numeric_limits<int64_t>::max() : value);
  }

  py::bytes section_;
  Tokenizer tokenizer_;
};

// Keeps its tokenizer alive through pybind11's keep_alive.
class BoundIncrementalDecoder {
 public:
  BoundIncrementalDecoder(const BoundTokenizer& tokenizer, bool skip_special_tokens)
      : decoder_(tokenizer.tokenizer(), skip_special_tokens) {}
  std::string push(int32_t id) { return decoder_.push(id); }
  std::string finish() { return decoder_.finish(); }

 private:
  IncrementalDecoder decoder_;
};

}  // namespace

void bind_text(py::module_& m) {
  py::class_<BoundTokenizer>(m, "Tokenizer",
                             "The tokenizer of a .pcpu file's tokenizer section; equal to Hugging Face `tokenizers`.")
      .def(py::init<py::bytes>(), py::arg("section"), "Raises FormatError, naming the field, if the section is damaged.")
      .def("encode", &BoundTokenizer::encode, py::arg("text"),
           "Ids of a text, as `tokenizers` gives without special tokens. Raises ValueError for a lone surrogate.")
      .def("decode", &BoundTokenizer::decode, py::arg("ids"), py::arg("skip_special_tokens") = true,
           "Text of ids; bytes that are not UTF-8 become U+FFFD, ids without a token give no text. Raises ValueError for a "
           "negative id.")
      .def("token_bytes", &BoundTokenizer::token_bytes, py::arg("id"),
           "The bytes one token stands for; empty for an id without a token.")
      .def("is_special", &BoundTokenizer::is_special, py::arg("id"), "Whether decode leaves the token out by default.")
      .def("tokenizes_as", &BoundTokenizer::tokenizes_as, py::arg("other"),
           "Whether both give the same tokens, which JSON that was written otherwise may do too.")
      .def_property_readonly("json", &BoundTokenizer::json, "The tokenizer.json that the section was made from, unchanged.")
      .def_property_readonly("vocab_size", &BoundTokenizer::vocab_size, "Highest id + 1.");
  py::class_<BoundIncrementalDecoder>(m, "IncrementalDecoder",
                                      "Decodes a growing sequence; the pieces join to decode() of all its ids.")
      .def(py::init<const BoundTokenizer&, bool>(), py::arg("tokenizer"), py::arg("skip_special_tokens") = true,
           py::keep_alive<1, 2>())
      .def("push", &BoundIncrementalDecoder::push, py::arg("id"), "The text that the next id makes certain, perhaps empty.")
      .def("finish", &BoundIncrementalDecoder::finish, "What is left, incomplete characters as U+FFFD.");
}

}  // namespace pythia
