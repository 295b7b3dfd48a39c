// f16: IEEE half precision.
#include "quant/element_panels.h"

namespace pythia {
namespace {

using Panels = ElementPanels<uint16_t, float_to_f16, f16_to_float>;

}  // namespace

const PanelPacker kF16Packer = {WeightFormat::kF16, nullptr, Panels::pack, Panels::unpack};

}  // namespace pythia
