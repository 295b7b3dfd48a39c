#include "quant/pack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common/fp_environment.h"
#include "quant/elements.h"
#include "quant/float4.h"
#include "quant/packers.h"

namespace pythia {
namespace {

// The formats that matrices can be packed in.
constexpr const PanelPacker* kPackers[] = {&kF32Packer, &kF16Packer, &kBF16Packer, &kQ8Packer, &kQ4Packer};

using BlockValues = std::array<float, kPanelWidth * kBlockInputs>;

const PanelPacker& find_packer(WeightFormat format, const char* where) {
  for (const PanelPacker* packer : kPackers)
    if (packer->format == format) return *packer;
  std::string available;
  for (const PanelPacker* packer : kPackers)
    available += (available.empty() ? "" : ", ") + std::string(name_of(packer->format));
  throw std::invalid_argument(std::string("[") + where + "] matrices cannot be packed in format " +
                              std::to_string(static_cast<uint32_t>(format)) + "; choose one of " + available);
}

// A panel's rows of a source matrix; those beyond the matrix are zeros.
class PanelSource {
 public:
  PanelSource(const SourceMatrix& source, int64_t panel)
      : source_(source), first_row_(panel * kPanelWidth), num_rows_(std::min(kPanelWidth, source.rows - first_row_)) {}

  int64_t first_row() const { return first_row_; }

  // Inputs [begin, end) of every output, and zeros up to kBlockInputs.
  void read(int64_t begin, int64_t end, BlockValues& values) const {
    if (num_rows_ < kPanelWidth || end - begin < kBlockInputs) values.fill(0.0f);
    for (int64_t r = 0; r < num_rows_; ++r)
      elements_to_float(source_.dtype,
                        source_.data + ((first_row_ + r) * source_.cols + begin) * element_size_bytes(source_.dtype),
                        end - begin, values.data() + r * kBlockInputs);
  }

  // Each output's largest magnitude over all inputs, NaN left out. `values` is overwritten.
  std::array<float, kPanelWidth> largest(BlockValues& values) const {
    std::array<float, kPanelWidth> largest = {};
    for (int64_t begin = 0; begin < source_.cols; begin += kBlockInputs) {
      read(begin, std::min(begin + kBlockInputs, source_.cols), values);
      for (int64_t r = 0; r < kPanelWidth; ++r) largest[r] = std::max(largest[r], largest_magnitude(&values[r * kBlockInputs]));
    }
    return largest;
  }

 private:
  static float largest_magnitude(const float* row) {
    std::array<Float4, 4> parts = {};  // so that the maxima do not wait for each other
    for (int64_t i = 0; i < kBlockInputs; i += 16)
      for (int64_t part = 0; part < 4; ++part) {
        Float4 x;
        std::memcpy(&x, row + i + 4 * part, sizeof x);
        parts[part] = max4(parts[part], abs4(x));
      }
    const Float4 four = max4(max4(parts[0], parts[1]), max4(parts[2], parts[3]));
    return std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
  }

  const SourceMatrix& source_;
  int64_t first_row_, num_rows_;
};

bool is_element_format(WeightFormat format) {
  const WeightFormatInfo* info = find_weight_format(static_cast<uint32_t>(format));
  return info != nullptr && info->lossless_container;
}

void require_element_format(WeightFormat format, const char* where, const char* what) {
  if (!is_element_format(format))
    throw std::invalid_argument(std::string("[") + where + "] " + what + " is format " +
                                std::to_string(static_cast<uint32_t>(format)) + ", expected f32, f16 or bf16");
}

void require_shape(int64_t rows, int64_t cols, const char* where) {
  if (rows < 0 || cols < 0)
    throw std::invalid_argument(std::string("[") + where + "] the shape is [" + std::to_string(rows) + ", " +
                                std::to_string(cols) + "], expected sizes of at least 0");
}

[[noreturn]] void throw_unpackable(const char* where, WeightFormat format, float value, const std::string& place) {
  throw std::invalid_argument(std::string("[") + where + "] the value " + std::to_string(value) + " at " + place +
                              (is_finite(value) ? " is too large for " : " cannot be stored in ") +
                              std::string(name_of(format)) +
                              (is_finite(value) ? "; choose a wider format such as f32" : ", which holds finite values only"));
}

}  // namespace

bool holds_exactly(const SourceMatrix& source, WeightFormat format) {
  require_element_format(source.dtype, "holds_exactly", "the source");
  require_element_format(format, "holds_exactly", "the target");
  require_shape(source.rows, source.cols, "holds_exactly");
  if (source.dtype == format || format == WeightFormat::kF32) return true;

  std::array<float, kBlockInputs> values, rounded_values;
  std::array<std::byte, 2 * kBlockInputs> narrow;
  const int64_t total = source.rows * source.cols;
  for (int64_t begin = 0; begin < total; begin += kBlockInputs) {
    const int64_t n = std::min(kBlockInputs, total - begin);
    elements_to_float(source.dtype, source.data + begin * element_size_bytes(source.dtype), n, values.data());
    elements_from_float(format, values.data(), n, narrow.data());
    elements_to_float(format, narrow.data(), n, rounded_values.data());
    bool same = true;
    for (int64_t i = 0; i < n; ++i) {
      const bool nan = values[i] != values[i] && rounded_values[i] != rounded_values[i];
      same &= nan || std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(rounded_values[i]);
    }
    if (!same) return false;
  }
  return true;
}

void pack_matrix(const SourceMatrix& source, WeightFormat format, std::byte* out) {
  require_element_format(source.dtype, "pack_matrix", "the source");
  require_shape(source.rows, source.cols, "pack_matrix");
  const PanelPacker& packer = find_packer(format, "pack_matrix");
  const int64_t panel_bytes = panel_size_bytes(format, source.cols);
  BlockValues values;
  const FpEnvironment fp_environment;
  for (int64_t panel = 0; panel < num_panels(source.rows); ++panel, out += panel_bytes) {
    std::memset(out, 0, static_cast<std::size_t>(panel_bytes));
    const PanelSource rows(source, panel);
    if (packer.start) packer.start(out, source.cols, rows.largest(values).data());
    for (int64_t begin = 0; begin < source.cols; begin += kBlockInputs) {
      const int64_t end = std::min(begin + kBlockInputs, source.cols);
      rows.read(begin, end, values);
      const Unpackable bad = packer.pack({out, source.cols, begin, end}, values.data());
      if (bad.output >= 0)
        throw_unpackable("pack_matrix", format, values[bad.output * kBlockInputs + bad.input],
                         "row " + std::to_string(source.first_row + rows.first_row() + bad.output) + ", column " +
                             std::to_string(begin + bad.input));
    }
  }
}

void unpack_matrix(WeightFormat format, const std::byte* packed, int64_t rows, int64_t cols, float* out) {
  require_shape(rows, cols, "unpack_matrix");
  const PanelPacker& packer = find_packer(format, "unpack_matrix");
  const int64_t panel_bytes = panel_size_bytes(format, cols);
  BlockValues values;
  const FpEnvironment fp_environment;
  for (int64_t first_row = 0; first_row < rows; first_row += kPanelWidth, packed += panel_bytes) {
    const int64_t num_rows = std::min(kPanelWidth, rows - first_row);
    for (int64_t begin = 0; begin < cols; begin += kBlockInputs) {
      const int64_t end = std::min(begin + kBlockInputs, cols);
      packer.unpack({packed, cols, begin, end}, values.data());
      for (int64_t r = 0; r < num_rows; ++r)
        std::copy_n(values.data() + r * kBlockInputs, end - begin, out + (first_row + r) * cols + begin);
    }
  }
}

void convert_elements(WeightFormat from, const std::byte* source, int64_t n, WeightFormat to, std::byte* out) {
  require_element_format(from, "convert_elements", "the source");
  require_element_format(to, "convert_elements", "the target");
  require_shape(n, 1, "convert_elements");
  if (from == to) {
    if (n > 0) std::memcpy(out, source, static_cast<std::size_t>(n * element_size_bytes(from)));
    return;
  }
  std::array<float, kBlockInputs> values;
  for (int64_t begin = 0; begin < n; begin += kBlockInputs) {
    const int64_t count = std::min(kBlockInputs, n - begin);
    elements_to_float(from, source + begin * element_size_bytes(from), count, values.data());
    const int64_t bad = elements_from_float(to, values.data(), count, out + begin * element_size_bytes(to));
    if (bad >= 0) throw_unpackable("convert_elements", to, values[bad], "element " + std::to_string(begin + bad));
  }
}

}  // namespace pythia
