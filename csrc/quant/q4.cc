// q4: groups of 32 inputs share a scale, multiple * unit; a weight is scale * kQ4Levels[code], code in 0..15, multiple in
// -127..127.
// A group's codes: [4][16 outputs][4 inputs] bytes: the low half of byte (s, output, i) is the code of input 4 s + i of the
// group, the high half that of input 16 + 4 s + i. Where groups lie in a panel is in weight_format.h.
#include <array>

#include "quant/group_scale.h"
#include "quant/q4_levels.h"

namespace pythia {
namespace {

constexpr ScaleChoice kChoice = {.largest_level = 127.0f, .most = 127.0f, .fewest = -127.0f, .finest = 98.0f};

// Which code and which level stand for the integers -128 to 127, by their low byte.
struct NearestTable {
  std::array<uint8_t, 256> code = {};  // the lower one where two levels are as near
  std::array<float, 256> level = {};
};
constexpr NearestTable kNearest = [] {
  NearestTable table;
  for (int x = -128; x < 128; ++x) {
    int best = 0;
    for (int code = 1; code < 16; ++code) {
      const int distance = x > kQ4Levels[code] ? x - kQ4Levels[code] : kQ4Levels[code] - x;
      const int best_distance = x > kQ4Levels[best] ? x - kQ4Levels[best] : kQ4Levels[best] - x;
      if (distance < best_distance) best = code;
    }
    const auto index = static_cast<std::size_t>(x & 255);
    table.code[index] = static_cast<uint8_t>(best);
    table.level[index] = static_cast<float>(kQ4Levels[best]);
  }
  return table;
}();

// Divisors of the group's largest magnitude: the levels reach further down than up, so a negative scale suits some groups.
constexpr float kDivisors[] = {127.0f, -127.0f, 106.0f, -106.0f, 98.0f,  -98.0f,  110.0f, -110.0f, 114.0f, -114.0f,
                               118.0f, -118.0f, 122.0f, -122.0f, 131.0f, -131.0f, 135.0f, -135.0f, 140.0f, -140.0f};

// Byte and shift of input i of a group.
struct CodePlace {
  int64_t byte;
  int shift;
};
CodePlace code_place(int64_t output, int64_t i) {
  const int64_t half = kQuantGroup / 2, within = i % half;
  return {(within / 4 * kPanelWidth + output) * 4 + within % 4, i < half ? 0 : 4};
}

void start(std::byte* panel, int64_t inputs, const float* largest) {
  start_units<WeightFormat::kQ4>(panel, inputs, largest, kChoice);
}

Unpackable pack(const PanelBlock& block, const float* values) {
  const Unpackable bad = find_unquantizable(values, block.end - block.begin);
  if (bad.output >= 0) return bad;
  const Clip4 clip(-128.0f, 127.0f);
  const auto nearest_index = [&clip](Float4 y) { return std::bit_cast<Int4>(clip(y) + kRoundingMagic) & 255; };
  const auto nearest_level = [&nearest_index](Float4 y) {
    const Int4 index = nearest_index(y);
    return Float4{kNearest.level[index[0]], kNearest.level[index[1]], kNearest.level[index[2]], kNearest.level[index[3]]};
  };
  const float* units = units_of<WeightFormat::kQ4>(block.panel, block.inputs);
  for (int64_t begin = block.begin; begin < block.end; begin += kQuantGroup) {
    const int64_t group = begin / kQuantGroup;
    auto* multiples = reinterpret_cast<int8_t*>(block.panel + group_multiples_offset_bytes(WeightFormat::kQ4, group));
    auto* codes = reinterpret_cast<uint8_t*>(block.panel + group_codes_offset_bytes(WeightFormat::kQ4, group));
    for (int64_t output = 0; output < kPanelWidth; output += kGroupLanes) {
      const GroupValues x(values + output * kBlockInputs + (begin - block.begin));
      const GroupScales found = search_scales(x, load_lanes(units + output), kChoice, kDivisors, nearest_level);
      for (int64_t part = 0; part < kLaneParts; ++part) {
        const Float4 inverse = invert_scale(found.scale[part]);
        for (int64_t lane = 0; lane < 4; ++lane)
          multiples[output + 4 * part + lane] = static_cast<int8_t>(found.multiple[part][lane]);
        for (int64_t i = 0; i < kQuantGroup; ++i) {
          const Int4 index = nearest_index(x.x[i][part] * inverse);
          for (int64_t lane = 0; lane < 4; ++lane) {
            const CodePlace place = code_place(output + 4 * part + lane, i);
            codes[place.byte] = static_cast<uint8_t>(codes[place.byte] | kNearest.code[index[lane]] << place.shift);
          }
        }
      }
    }
  }
  return {};
}

void unpack(const ConstPanelBlock& block, float* values) {
  const float* units = units_of<WeightFormat::kQ4>(block.panel, block.inputs);
  for (int64_t input = block.begin; input < block.end; ++input) {
    const int64_t group = input / kQuantGroup;
    const auto* multiples =
        reinterpret_cast<const int8_t*>(block.panel + group_multiples_offset_bytes(WeightFormat::kQ4, group));
    const auto* codes = reinterpret_cast<const uint8_t*>(block.panel + group_codes_offset_bytes(WeightFormat::kQ4, group));
    for (int64_t output = 0; output < kPanelWidth; ++output) {
      const CodePlace place = code_place(output, input % kQuantGroup);
      const int8_t level = kQ4Levels[(codes[place.byte] >> place.shift) & 15];
      values[output * kBlockInputs + (input - block.begin)] = units[output] * static_cast<float>(multiples[output] * level);
    }
  }
}

}  // namespace

const PanelPacker kQ4Packer = {WeightFormat::kQ4, start, pack, unpack};

}  // namespace pythia
