// f32: IEEE single precision.
#include "quant/element_panels.h"

namespace pythia {
namespace {

constexpr float same(float value) { return value; }
using Panels = ElementPanels<float, same, same>;

}  // namespace

const PanelPacker kF32Packer = {WeightFormat::kF32, nullptr, Panels::pack, Panels::unpack};

}  // namespace pythia
