// How each weight format packs and unpacks a panel: one PanelPacker per format, each in its own file, listed in pack.cc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quant/weight_format.h"

namespace pythia {

// Inputs that are packed at a time: 16 outputs of these are 16 KB of floats, which stay in the first-level cache.
inline constexpr int64_t kBlockInputs = 256;
static_assert(kBlockInputs % kQuantGroup == 0);

// Inputs [begin, end) of the 16 outputs of one panel.
template <class Byte>
struct BasicPanelBlock {
  Byte* panel;     // start of the packed panel, panel_size_bytes(format, inputs); zeroed before its first block is packed
  int64_t inputs;  // of the whole matrix
  int64_t begin;   // a multiple of kBlockInputs
  int64_t end;     // begin + kBlockInputs, or inputs
};
using PanelBlock = BasicPanelBlock<std::byte>;
using ConstPanelBlock = BasicPanelBlock<const std::byte>;

// A value that a format cannot hold: its output within the panel and its input within the block.
struct Unpackable {
  int64_t output = -1;  // -1: none
  int64_t input = 0;
};

struct PanelPacker {
  WeightFormat format;

  // Readies the packed panel for its blocks, given each output's largest magnitude over all inputs, NaN left out. Null where
  // blocks need no such thing.
  void (*start)(std::byte* panel, int64_t inputs, const float* largest);

  // Packs values [16][kBlockInputs] (outputs beyond the matrix are zero rows) and reports the first value, in row order, that
  // the format cannot hold: a finite one that would become infinite, or for quantized formats one that is not finite.
  Unpackable (*pack)(const PanelBlock& block, const float* values);

  // The inverse: the values that the block stands for, to [16][kBlockInputs].
  void (*unpack)(const ConstPanelBlock& block, float* values);
};

extern const PanelPacker kF32Packer;
extern const PanelPacker kF16Packer;
extern const PanelPacker kBF16Packer;
extern const PanelPacker kQ8Packer;
extern const PanelPacker kQ4Packer;

}  // namespace pythia
