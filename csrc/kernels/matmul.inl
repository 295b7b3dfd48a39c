// The matmul of every weight format. Included through bodies.inl.
#pragma once

#include "kernels/kernels.h"
#include "kernels/matmul_float.inl"
#include "kernels/matmul_quant.inl"

namespace pythia {
namespace {

void matmul_kernel(const MatmulArgs& args) noexcept {
  const int64_t stride = panel_size_bytes(args.weights.format, args.weights.inputs);
  const std::byte* data = args.weights.data;
  switch (args.weights.format) {
    case WeightFormat::kF32: return float_matmul(args, F32Weights{reinterpret_cast<const float*>(data), stride / 4, kLanes});
    case WeightFormat::kF16: return float_matmul(args, F16Weights{reinterpret_cast<const uint16_t*>(data), stride / 2, kLanes});
    case WeightFormat::kBF16:
      return float_matmul(args, BF16Weights{reinterpret_cast<const uint16_t*>(data), stride / 2, kLanes});
    case WeightFormat::kQ8: return quant_matmul<Q8Group>(args, stride);
    case WeightFormat::kQ4: return quant_matmul<Q4Group>(args, stride);
  }
}

}  // namespace
}  // namespace pythia
