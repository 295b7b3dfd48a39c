// q8: groups of 32 inputs share a scale, multiple * unit; a weight is scale * (code - 128), code in 1..255, multiple in 0..255.
// A group's codes: [8][16 outputs][4 inputs]. Where groups lie in a panel is in weight_format.h.
#include <cstring>

#include "quant/group_scale.h"

namespace pythia {
namespace {

constexpr ScaleChoice kChoice = {.largest_level = 127.0f, .most = 255.0f, .fewest = 0.0f, .finest = 121.0f};

// Divisors of the group's largest magnitude. A finer grid than 127 clips the largest value a little, a coarser one may fit
// better.
constexpr float kDivisors[] = {127.0f, 121.0f, 121.5f, 122.0f, 122.5f, 123.0f, 123.5f, 124.0f, 124.5f,
                               125.0f, 125.5f, 126.0f, 126.5f, 127.5f, 128.0f, 128.5f, 129.0f};

// Of input i of a group.
int64_t code_index(int64_t output, int64_t i) { return (i / 4 * kPanelWidth + output) * 4 + i % 4; }

void start(std::byte* panel, int64_t inputs, const float* largest) {
  start_units<WeightFormat::kQ8>(panel, inputs, largest, kChoice);
}

Unpackable pack(const PanelBlock& block, const float* values) {
  const Unpackable bad = find_unquantizable(values, block.end - block.begin);
  if (bad.output >= 0) return bad;
  const Clip4 clip(-kChoice.largest_level, kChoice.largest_level);
  const auto nearest_level = [&clip](Float4 y) { return round4(clip(y)); };
  const float* units = units_of<WeightFormat::kQ8>(block.panel, block.inputs);
  for (int64_t begin = block.begin; begin < block.end; begin += kQuantGroup) {
    const int64_t group = begin / kQuantGroup;
    auto* multiples = reinterpret_cast<uint8_t*>(block.panel + group_multiples_offset_bytes(WeightFormat::kQ8, group));
    std::byte* codes = block.panel + group_codes_offset_bytes(WeightFormat::kQ8, group);
    for (int64_t output = 0; output < kPanelWidth; output += kGroupLanes) {
      const GroupValues x(values + output * kBlockInputs + (begin - block.begin));
      const GroupScales found = search_scales(x, load_lanes(units + output), kChoice, kDivisors, nearest_level);
      for (int64_t part = 0; part < kLaneParts; ++part) {
        const int64_t first = output + 4 * part;
        for (int64_t lane = 0; lane < 4; ++lane) multiples[first + lane] = static_cast<uint8_t>(found.multiple[part][lane]);
        const Float4 inverse = invert_scale(found.scale[part]);
        for (int64_t i = 0; i < kQuantGroup; i += 4) {
          Int4 four = {};  // codes of inputs i to i + 3, the first in the lowest byte
          for (int64_t j = 0; j < 4; ++j)
            four |= (__builtin_convertvector(nearest_level(x.x[i + j][part] * inverse), Int4) + 128) << (8 * j);
          std::memcpy(codes + code_index(first, i), &four, sizeof(four));
        }
      }
    }
  }
  return {};
}

void unpack(const ConstPanelBlock& block, float* values) {
  const float* units = units_of<WeightFormat::kQ8>(block.panel, block.inputs);
  for (int64_t input = block.begin; input < block.end; ++input) {
    const int64_t group = input / kQuantGroup;
    const auto* multiples =
        reinterpret_cast<const uint8_t*>(block.panel + group_multiples_offset_bytes(WeightFormat::kQ8, group));
    const auto* codes = reinterpret_cast<const uint8_t*>(block.panel + group_codes_offset_bytes(WeightFormat::kQ8, group));
    for (int64_t output = 0; output < kPanelWidth; ++output) {
      const int level = codes[code_index(output, input % kQuantGroup)] - 128;
      values[output * kBlockInputs + (input - block.begin)] = units[output] * static_cast<float>(multiples[output] * level);
    }
  }
}

}  // namespace

const PanelPacker kQ8Packer = {WeightFormat::kQ8, start, pack, unpack};

}  // namespace pythia
