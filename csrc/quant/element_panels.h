// The panels of the element formats f32, f16 and bf16: [inputs][16] elements, and zeros up to a multiple of 64 bytes.
#pragma once

#include "quant/elements.h"
#include "quant/packers.h"

namespace pythia {

template <class Element, Element (*kNarrow)(float), float (*kWiden)(Element)>
struct ElementPanels {
  static Unpackable pack(const PanelBlock& block, const float* values) {
    Unpackable bad;
    auto* out = reinterpret_cast<Element*>(block.panel) + block.begin * kPanelWidth;
    const int64_t n = block.end - block.begin;
    for (int64_t output = 0; output < kPanelWidth; ++output) {
      const float* row = values + output * kBlockInputs;
      for (int64_t i = 0; i < n; ++i) {
        const Element element = kNarrow(row[i]);
        out[i * kPanelWidth + output] = element;
        if (is_finite(row[i]) && !is_finite(kWiden(element)) && bad.output < 0) bad = {output, i};
      }
    }
    return bad;
  }

  static void unpack(const ConstPanelBlock& block, float* values) {
    const auto* in = reinterpret_cast<const Element*>(block.panel) + block.begin * kPanelWidth;
    const int64_t n = block.end - block.begin;
    for (int64_t output = 0; output < kPanelWidth; ++output)
      for (int64_t i = 0; i < n; ++i) values[output * kBlockInputs + i] = kWiden(in[i * kPanelWidth + output]);
  }
};

}  // namespace pythia
