// The weight formats, listed in one place: their numbers in files, their names, and the size of a packed panel.
//
// A weight matrix [out, in] is stored as ceil(out / 16) panels of 16 outputs; the last panel is padded with zero outputs.
// Within a panel the inner dimension runs in memory, 16 outputs side by side (docs/format.md, "Panels"), so each output owns
// a SIMD lane and adds over the inner dimension in sequence on every machine (docs/numerics.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pythia {

inline constexpr int64_t kPanelWidth = 16;  // outputs in a panel
inline constexpr int64_t kQuantGroup = 32;  // inputs that share a scale in q8 and q4
inline constexpr int64_t kAlignment = 64;   // bytes; of every tensor in a file and every panel

// Values are stored in files: never renumber.
enum class WeightFormat : uint32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kQ8 = 3, kQ4 = 4 };

struct WeightFormatInfo {
  WeightFormat format;
  std::string_view name;
  bool lossless_container;     // holds IEEE values element by element (f32, f16, bf16)
  bool quantized_activations;  // its matmul reads int8 activations
};

inline constexpr WeightFormatInfo kWeightFormats[] = {
    {WeightFormat::kF32, "f32", true, false},   {WeightFormat::kF16, "f16", true, false},
    {WeightFormat::kBF16, "bf16", true, false}, {WeightFormat::kQ8, "q8", false, true},
    {WeightFormat::kQ4, "q4", false, true},
};

constexpr const WeightFormatInfo* find_weight_format(uint32_t value) {
  for (const auto& f : kWeightFormats)
    if (static_cast<uint32_t>(f.format) == value) return &f;
  return nullptr;
}

constexpr std::optional<WeightFormat> parse_weight_format(std::string_view name) {
  for (const auto& f : kWeightFormats)
    if (f.name == name) return f.format;
  return std::nullopt;
}

constexpr std::string_view name_of(WeightFormat format) { return find_weight_format(static_cast<uint32_t>(format))->name; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Bytes of one element of a lossless format.
constexpr int64_t element_size_bytes(WeightFormat format) { return format == WeightFormat::kF32 ? 4 : 2; }

// In q8 and q4 a group's scale is a small integer, its multiple, of its output's unit: 8 bits a group and 32 an output. A panel
// is a run of blocks of four groups, their multiples [4][16] before their codes, and then the units [16]: one stream, in the
// order of use, which memory serves faster than two. The last block may have fewer groups; it has zeros for their multiples.
inline constexpr int64_t kQuantBlockGroups = 4;
inline constexpr int64_t kMultiplesBytes = kQuantBlockGroups * kPanelWidth;  // of a block
inline constexpr int64_t kUnitsBytes = kPanelWidth * 4;                      // of a panel
static_assert(kMultiplesBytes % kAlignment == 0 && kUnitsBytes % kAlignment == 0);

constexpr int64_t group_codes_bytes(WeightFormat format) {
  return kQuantGroup * kPanelWidth / (format == WeightFormat::kQ4 ? 2 : 1);
}
constexpr int64_t quant_block_bytes(WeightFormat format) {
  return kMultiplesBytes + kQuantBlockGroups * group_codes_bytes(format);
}

// Where a group's multiples and codes, and the outputs' units, begin in the panel, in bytes.
constexpr int64_t group_multiples_offset_bytes(WeightFormat format, int64_t group) {
  return group / kQuantBlockGroups * quant_block_bytes(format) + group % kQuantBlockGroups * kPanelWidth;
}
constexpr int64_t group_codes_offset_bytes(WeightFormat format, int64_t group) {
  return group / kQuantBlockGroups * quant_block_bytes(format) + kMultiplesBytes +
         group % kQuantBlockGroups * group_codes_bytes(format);
}
constexpr int64_t units_offset_bytes(WeightFormat format, int64_t inputs) {
  const int64_t groups = ceil_div(inputs, kQuantGroup);
  return ceil_div(groups, kQuantBlockGroups) * kMultiplesBytes + groups * group_codes_bytes(format);
}

// Bytes of one panel of 16 outputs x `inputs`, a multiple of kAlignment. Callers bound `inputs` by kMaxDimension.
//   f32, f16, bf16: [inputs][16] elements.
//   q8, q4: blocks of four groups, multiples before codes, then the units (docs/format.md).
constexpr int64_t panel_size_bytes(WeightFormat format, int64_t inputs) {
  switch (format) {
    case WeightFormat::kF32: return inputs * kPanelWidth * 4;
    case WeightFormat::kF16:
    case WeightFormat::kBF16: return round_up(inputs * kPanelWidth * 2, kAlignment);
    case WeightFormat::kQ8:
    case WeightFormat::kQ4: return units_offset_bytes(format, inputs) + kUnitsBytes;
  }
  return 0;
}

constexpr int64_t num_panels(int64_t outputs) { return ceil_div(outputs, kPanelWidth); }

// Bytes of a whole packed matrix [outputs, inputs].
constexpr int64_t packed_size_bytes(WeightFormat format, int64_t outputs, int64_t inputs) {
  return num_panels(outputs) * panel_size_bytes(format, inputs);
}

}  // namespace pythia
