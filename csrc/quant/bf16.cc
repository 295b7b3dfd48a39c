// bf16: the upper half of IEEE single precision.
#include "quant/element_panels.h"

namespace pythia {
namespace {

using Panels = ElementPanels<uint16_t, float_to_bf16, bf16_to_float>;

}  // namespace

const PanelPacker kBF16Packer = {WeightFormat::kBF16, nullptr, Panels::pack, Panels::unpack};

}  // namespace pythia
