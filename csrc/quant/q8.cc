// q8: groups of 32 inputs share an fp16 scale; a weight is scale * (code - 128), code in 1..255.
// Panel: [groups][16] scales, zeros to a multiple of 64 bytes, then [groups][8][16 outputs][4 inputs] codes.
#include "quant/group_scale.h"

namespace pythia {
namespace {

constexpr float kLargest = 127.0f;
constexpr float kRoundingMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, half to even

// Divisors of the group's largest magnitude. A finer grid than 127 clips the largest value a little, a coarser one may fit
// better.
constexpr float kCandidates[] = {127.0f, 121.0f, 121.5f, 122.0f, 122.5f, 123.0f, 123.5f, 124.0f, 124.5f,
                                 125.0f, 125.5f, 126.0f, 126.5f, 127.5f, 128.0f, 128.5f, 129.0f};

void round_to_levels(const float* x, float inverse_scale, float* levels) {
  for (int64_t i = 0; i < kQuantGroup; ++i) {
    const float scaled = std::min(std::max(x[i] * inverse_scale, -kLargest), kLargest);
    levels[i] = (scaled + kRoundingMagic) - kRoundingMagic;
  }
}

int64_t code_index(int64_t group, int64_t output, int64_t i) {
  return ((group * (kQuantGroup / 4) + i / 4) * kPanelWidth + output) * 4 + i % 4;
}

Unpackable pack(const PanelBlock& block, const float* values) {
  const Unpackable bad = find_unquantizable(values, block.end - block.begin, kLargest);
  if (bad.output >= 0) return bad;
  auto* scales = reinterpret_cast<uint16_t*>(block.panel);
  auto* codes = reinterpret_cast<uint8_t*>(block.panel + scales_size_bytes(block.inputs));
  float levels[kQuantGroup];
  for (int64_t begin = block.begin; begin < block.end; begin += kQuantGroup) {
    const int64_t group = begin / kQuantGroup;
    for (int64_t output = 0; output < kPanelWidth; ++output) {
      const float* x = values + output * kBlockInputs + (begin - block.begin);
      const StoredScale scale = search_scale(x, kCandidates, round_to_levels);
      scales[group * kPanelWidth + output] = scale.bits;
      round_to_levels(x, scale.value == 0.0f ? 0.0f : 1.0f / scale.value, levels);
      for (int64_t i = 0; i < kQuantGroup; ++i)
        codes[code_index(group, output, i)] = static_cast<uint8_t>(static_cast<int>(levels[i]) + 128);
    }
  }
  return {};
}

void unpack(const ConstPanelBlock& block, float* values) {
  const auto* scales = reinterpret_cast<const uint16_t*>(block.panel);
  const auto* codes = reinterpret_cast<const uint8_t*>(block.panel + scales_size_bytes(block.inputs));
  for (int64_t input = block.begin; input < block.end; ++input) {
    const int64_t group = input / kQuantGroup;
    for (int64_t output = 0; output < kPanelWidth; ++output) {
      const float scale = f16_to_float(scales[group * kPanelWidth + output]) * kScaleUnit;
      const int level = codes[code_index(group, output, input % kQuantGroup)] - 128;
      values[output * kBlockInputs + (input - block.begin)] = scale * static_cast<float>(level);
    }
  }
}

}  // namespace

const PanelPacker kQ8Packer = {WeightFormat::kQ8, pack, unpack};

}  // namespace pythia
