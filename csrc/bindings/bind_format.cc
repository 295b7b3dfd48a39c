// The file format and the packing of matrices, for the converter and the tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "format/reader.h"
#include "format/tensor_names.h"
#include "format/writer.h"
#include "model/fingerprint.h"
#include "quant/pack.h"

namespace py = pybind11;

namespace pythia {
namespace {

// Whatever has a contiguous buffer, held while C++ reads it without the GIL.
class ByteView {
 public:
  explicit ByteView(const py::buffer& buffer) {
    if (PyObject_GetBuffer(buffer.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~ByteView() { PyBuffer_Release(&view_); }
  ByteView(const ByteView&) = delete;
  ByteView& operator=(const ByteView&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_ = {};
};

WeightFormat parse_format(const std::string& name, const char* what) {
  if (const auto format = parse_weight_format(name)) return *format;
  std::string known;
  for (const auto& info : kWeightFormats) known += (known.empty() ? "" : ", ") + std::string(info.name);
  throw std::invalid_argument(std::string(what) + " is '" + name + "', expected one of " + known);
}

SourceMatrix make_source(const ByteView& view, const std::string& dtype, int64_t rows, int64_t cols) {
  const WeightFormat format = parse_format(dtype, "dtype");
  if (rows < 0 || cols < 0 || rows > kMaxDimension * 4 || cols > kMaxDimension)
    throw std::invalid_argument("the shape is [" + std::to_string(rows) + ", " + std::to_string(cols) +
                                "], which is negative or above the format's limits");
  const int64_t size_bytes = rows * cols * element_size_bytes(format);
  if (view.bytes().size() != static_cast<std::size_t>(size_bytes))
    throw std::invalid_argument("the array has " + std::to_string(view.bytes().size()) + " bytes, expected " +
                                std::to_string(size_bytes) + " for " + dtype + " [" + std::to_string(rows) + ", " +
                                std::to_string(cols) + "]");
  return {format, view.bytes().data(), rows, cols};
}

py::array_t<uint8_t> pack(const py::buffer& array, const std::string& dtype, int64_t rows, int64_t cols,
                          const std::string& format_name, int64_t first_row) {
  const ByteView view(array);
  SourceMatrix source = make_source(view, dtype, rows, cols);
  source.first_row = first_row;
  const WeightFormat format = parse_format(format_name, "format");
  py::array_t<uint8_t> packed(packed_size_bytes(format, rows, cols));
  auto* out = reinterpret_cast<std::byte*>(packed.mutable_data());
  const WithoutGil unlocked;
  pack_matrix(source, format, out);
  return packed;
}

py::array_t<float> unpack(const py::buffer& packed, const std::string& format_name, int64_t rows, int64_t cols) {
  const ByteView view(packed);
  const WeightFormat format = parse_format(format_name, "format");
  if (rows < 0 || cols < 0 || rows > kMaxDimension * 4 || cols > kMaxDimension)
    throw std::invalid_argument("[unpack_matrix] the shape is negative or above the format's limits");
  if (view.bytes().size() != static_cast<std::size_t>(packed_size_bytes(format, rows, cols)))
    throw std::invalid_argument("[unpack_matrix] the packed matrix has " + std::to_string(view.bytes().size()) +
                                " bytes, expected " + std::to_string(packed_size_bytes(format, rows, cols)));
  py::array_t<float> values({rows, cols});
  float* out = values.mutable_data();
  const WithoutGil unlocked;
  unpack_matrix(format, view.bytes().data(), rows, cols, out);
  return values;
}

bool holds(const py::buffer& array, const std::string& dtype, const std::string& format_name) {
  const ByteView view(array);
  const WeightFormat source_format = parse_format(dtype, "dtype");
  const WeightFormat format = parse_format(format_name, "format");
  const auto size_bytes = static_cast<int64_t>(view.bytes().size());
  if (size_bytes % element_size_bytes(source_format) != 0)
    throw std::invalid_argument("[holds_exactly] the array has " + std::to_string(size_bytes) +
                                " bytes, not a whole number of " + dtype);
  const SourceMatrix source = {source_format, view.bytes().data(), 1, size_bytes / element_size_bytes(source_format)};
  const WithoutGil unlocked;
  return holds_exactly(source, format);
}

py::array_t<uint8_t> convert(const py::buffer& array, const std::string& dtype, const std::string& format_name) {
  const ByteView view(array);
  const WeightFormat from = parse_format(dtype, "dtype");
  const WeightFormat to = parse_format(format_name, "format");
  const auto size_bytes = static_cast<int64_t>(view.bytes().size());
  if (size_bytes % element_size_bytes(from) != 0)
    throw std::invalid_argument("[convert_elements] the array has " + std::to_string(size_bytes) +
                                " bytes, not a whole number of " + dtype);
  const int64_t n = size_bytes / element_size_bytes(from);
  py::array_t<uint8_t> converted(n * element_size_bytes(to));
  auto* out = reinterpret_cast<std::byte*>(converted.mutable_data());
  const WithoutGil unlocked;
  convert_elements(from, view.bytes().data(), n, to, out);
  return converted;
}

py::bytes to_bytes(std::span<const std::byte> bytes) {
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Calls visit(name, field) for each field of a Config.
template <class AnyConfig, class Visit>
void visit_fields(AnyConfig& config, const Visit& visit) {
  visit("vocab_size", config.vocab_size);
  visit("hidden_size", config.hidden_size);
  visit("num_hidden_layers", config.num_hidden_layers);
  visit("num_attention_heads", config.num_attention_heads);
  visit("intermediate_size", config.intermediate_size);
  visit("max_position_embeddings", config.max_position_embeddings);
  visit("rotary_ndims", config.rotary_ndims);
  visit("bos_token_id", config.bos_token_id);
  visit("eos_token_id", config.eos_token_id);
  visit("hidden_act", config.hidden_act);
  visit("use_parallel_residual", config.use_parallel_residual);
  visit("tie_word_embeddings", config.tie_word_embeddings);
  visit("attention_bias", config.attention_bias);
  visit("rotary_emb_base", config.rotary_emb_base);
  visit("layer_norm_eps", config.layer_norm_eps);
}

// How Python has a field: an Activation as its number.
template <class T>
using PythonField = std::conditional_t<std::is_same_v<T, Activation>, uint32_t, T>;

py::dict config_to_dict(const Config& config) {
  py::dict d;
  visit_fields(config, [&]<class T>(const char* key, const T& value) { d[key] = static_cast<PythonField<T>>(value); });
  return d;
}

Config config_from_dict(const py::dict& d) {
  Config config;
  visit_fields(config, [&]<class T>(const char* key, T& value) {
    if (!d.contains(key)) throw std::invalid_argument(std::string("[PcpuWriter] the config has no ") + key);
    try {
      value = static_cast<T>(d[key].cast<PythonField<T>>());
    } catch (const py::cast_error&) {
      throw std::invalid_argument(std::string("[PcpuWriter] ") + key + " is " + py::repr(d[key]).cast<std::string>() +
                                  ", which is not a number of its type");
    }
  });
  return config;
}

template <std::size_t kSize>
py::tuple tuple_of(const char* const (&names)[kSize]) {
  py::list list;
  for (const char* name : names) list.append(name);
  return py::tuple(list);
}

std::string format_name(uint32_t format) { return std::string(name_of(static_cast<WeightFormat>(format))); }

py::list tensors_to_list(const PcpuFile& file) {
  py::list list;
  for (const TensorRecord& record : file.tensors()) {
    py::dict d;
    d["name"] = record.name;
    d["layout"] = name_of(static_cast<Layout>(record.layout));
    d["format"] = format_name(record.format);
    d["source_dtype"] = format_name(record.source_dtype);
    d["derived"] = record.derived != 0;
    d["rows"] = record.rows;
    d["cols"] = record.cols;
    d["offset_bytes"] = record.offset_bytes;
    d["size_bytes"] = record.size_bytes;
    d["checksum"] = record.checksum;
    d["source_sha256"] = py::bytes(reinterpret_cast<const char*>(record.source_sha256), sizeof(record.source_sha256));
    list.append(d);
  }
  return list;
}

py::array_t<float> read_tensor(const PcpuFile& file, const std::string& name) {
  const TensorRecord* record = file.find(name);
  if (record == nullptr) throw py::key_error(name);
  const auto rows = static_cast<int64_t>(record->rows);
  const auto cols = static_cast<int64_t>(record->cols);
  const auto layout = static_cast<Layout>(record->layout);
  const auto format = static_cast<WeightFormat>(record->format);
  auto values = layout == Layout::kVector ? py::array_t<float>(cols) : py::array_t<float>({rows, cols});
  float* out = values.mutable_data();
  const WithoutGil unlocked;
  if (layout == Layout::kPanels) {
    unpack_matrix(format, file.data(*record), rows, cols, out);
  } else {
    convert_elements(format, file.data(*record), rows * cols, WeightFormat::kF32, reinterpret_cast<std::byte*>(out));
  }
  return values;
}

using Metadata = std::map<std::string, std::string, std::less<>>;

}  // namespace

void bind_format(py::module_& m) {
  // The reader hands out const files; pybind11 holds the same object, whose bound methods are all const.
  py::class_<PcpuFile, std::shared_ptr<PcpuFile>>(m, "PcpuFile", "A validated, mapped .pcpu file.")
      .def_static(
          "open",
          [](const py::str& path, int threads) {
            const std::string bytes = path_from_python(path);
            const WithoutGil unlocked;
            return std::const_pointer_cast<PcpuFile>(PcpuFile::open(bytes, threads));
          },
          py::arg("path"), py::arg("threads") = 1,
          "Maps a file and checks all of it. Raises FormatError naming the path and the field, OSError.")
      .def_property_readonly(
          "path", [](const PcpuFile& file) { return path_to_python(file.path()); }, "As it was opened.")
      .def_property_readonly("size_bytes", &PcpuFile::size_bytes, "The file's size.")
      .def_property_readonly(
          "version", [](const PcpuFile& file) { return file.header().version; }, "Of the file format.")
      .def_property_readonly(
          "weights", [](const PcpuFile& file) { return std::string(name_of(file.weight_format())); },
          "The format asked for, one of WEIGHT_FORMATS; tensors may have others.")
      .def_property_readonly(
          "fingerprint", [](const PcpuFile& file) { return file.header().fingerprint; },
          "Of the logits of a fixed prompt, as the converting machine computed it; 0: none.")
      .def_property_readonly(
          "config", [](const PcpuFile& file) { return config_to_dict(file.config()); },
          "Hyperparameters; hidden_act is a place in ACTIVATIONS, ids are -1 where there is none.")
      .def_property_readonly("tensors", tensors_to_list,
                             "A dict for each tensor, in file order (docs/format.md, \"Tensor table\").")
      .def_property_readonly(
          "metadata", [](const PcpuFile& file) { return Metadata(file.metadata()); },
          "Where the weights came from, and the checkpoint's config.json.")
      .def_property_readonly(
          "tokenizer", [](const PcpuFile& file) { return to_bytes(file.tokenizer()); },
          "The tokenizer section (docs/tokenizer-section.md).")
      .def("read", read_tensor, py::arg("name"),
           "The values the kernels multiply by: float32 [cols] or [rows, cols]. Raises KeyError.")
      .def("__repr__", [](const PcpuFile& file) {
        return path_to_python("PcpuFile('" + file.path() + "', weights='" + std::string(name_of(file.weight_format())) + "')");
      });

  py::class_<PcpuWriter>(m, "PcpuWriter", "Writes a .pcpu file, tensor by tensor; nothing is left unless finish() is reached.")
      .def(py::init([](const py::str& path, const py::dict& config, const std::string& weights) {
             return std::make_unique<PcpuWriter>(path_from_python(path), config_from_dict(config),
                                                 parse_format(weights, "[PcpuWriter] weights"));
           }),
           py::arg("path"), py::arg("config"), py::arg("weights"),
           "Opens a temporary file beside `path`. Raises ValueError, OSError.")
      .def(
          "begin_tensor",
          [](PcpuWriter& writer, const std::string& name, const std::string& format, const std::string& source_dtype) {
            writer.begin_tensor(name, parse_format(format, "[PcpuWriter] format"),
                                parse_format(source_dtype, "[PcpuWriter] source_dtype"));
          },
          py::arg("name"), py::arg("format"), py::arg("source_dtype"),
          "Begins the next of expected_tensors(config). Raises ValueError if it is not that, or cannot have this format.")
      .def(
          "append",
          [](PcpuWriter& writer, const py::buffer& packed) {
            const ByteView view(packed);
            const WithoutGil unlocked;
            writer.append(view.bytes());
          },
          py::arg("packed"), "Some more of the tensor's bytes as the file has them. Raises ValueError, OSError.")
      .def(
          "end_tensor",
          [](PcpuWriter& writer, const py::buffer& source_sha256) {
            const ByteView view(source_sha256);
            if (view.bytes().size() != 32)
              throw std::invalid_argument("[PcpuWriter] source_sha256 has " + std::to_string(view.bytes().size()) +
                                          " bytes, expected 32");
            writer.end_tensor(std::span<const uint8_t, 32>(reinterpret_cast<const uint8_t*>(view.bytes().data()), 32));
          },
          py::arg("source_sha256"),
          "Ends the tensor, with the SHA-256 of what it was made from. Raises ValueError if bytes are missing, OSError.")
      .def(
          "set_tokenizer",
          [](PcpuWriter& writer, const py::buffer& section) {
            const ByteView view(section);
            writer.set_tokenizer(view.bytes());
          },
          py::arg("section"), "The tokenizer section, which every file has. Raises ValueError.")
      .def("set_metadata", &PcpuWriter::set_metadata, py::arg("metadata"), "Strings by name. Raises ValueError.")
      .def("set_fingerprint", &PcpuWriter::set_fingerprint, py::arg("fingerprint"),
           "The logits' fingerprint, if finish() does not compute it.")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](PcpuWriter& writer, const py::args&) { writer.discard(); })
      .def("discard", &PcpuWriter::discard, "Gives up: removes the temporary file.")
      .def(
          "finish",
          [](PcpuWriter& writer, bool fingerprint, int threads) {
            const auto compute = [&](const std::string& path) { return logits_fingerprint_of_file(path, threads); };
            fingerprint ? writer.finish(compute) : writer.finish();
          },
          py::arg("fingerprint") = false, py::arg("threads") = 0, py::call_guard<WithoutGil>(),
          "Writes the tables and the header, syncs and renames; `fingerprint` runs the model on `threads` threads (0: all "
          "physical cores) and stores its logits' fingerprint. Raises ValueError if something is missing, OSError.");

  m.def(
      "expected_tensors",
      [](const py::dict& config_dict) {
        const Config config = config_from_dict(config_dict);
        if (const std::string problem = check_config(config); !problem.empty()) throw std::invalid_argument(problem);
        py::list list;
        for (const ExpectedTensor& tensor : expected_tensors(config))
          list.append(py::make_tuple(tensor.name, name_of(tensor.layout), tensor.rows, tensor.cols));
        return list;
      },
      py::arg("config"),
      "(name, layout, rows, cols) of every tensor of a model, in file order; the layout is one of LAYOUTS. Raises ValueError.");
  m.def("pack_matrix", pack, py::arg("array"), py::arg("dtype"), py::arg("rows"), py::arg("cols"), py::arg("format"),
        py::arg("first_row") = 0,
        "Packs a row-major matrix of f32, f16 or bf16 bytes; uint8 [packed_size_bytes]. Raises ValueError, which counts rows "
        "from `first_row`.");
  m.def("unpack_matrix", unpack, py::arg("packed"), py::arg("format"), py::arg("rows"), py::arg("cols"),
        "The values that a packed matrix stands for, float32 [rows, cols]. Raises ValueError.");
  m.def("holds_exactly", holds, py::arg("array"), py::arg("dtype"), py::arg("format"),
        "True if `format` (f32, f16, bf16) holds every value of the array exactly. Raises ValueError.");
  m.def("convert_elements", convert, py::arg("array"), py::arg("dtype"), py::arg("format"),
        "The array's values in another of f32, f16, bf16, as bytes; rounds half to even. Raises ValueError.");
  m.def(
      "checksum64",
      [](const py::buffer& data) {
        const ByteView view(data);
        const WithoutGil unlocked;
        return checksum64(view.bytes().data(), view.bytes().size());
      },
      py::arg("data"), "The format's checksum of some bytes.");

  py::list formats, quantized;
  for (const WeightFormatInfo& info : kWeightFormats) {
    formats.append(std::string(info.name));
    if (info.quantized_activations) quantized.append(std::string(info.name));
  }
  m.attr("WEIGHT_FORMATS") = py::tuple(formats);
  m.attr("QUANTIZED_FORMATS") = py::tuple(quantized);
  m.attr("PANEL_WIDTH") = kPanelWidth;
  m.attr("LAYOUTS") = tuple_of(kLayoutNames);
  m.attr("ACTIVATIONS") = tuple_of(kActivationNames);
  m.attr("EMBEDDING_NAME") = tensor_names::weight(tensor_names::kEmbedIn);
  m.attr("HEAD_NAME") = tensor_names::weight(tensor_names::kEmbedOut);
}

}  // namespace pythia
