// From a checkpoint's tensor to a packed matrix.
#pragma once

#include <cstddef>

#include "quant/weight_format.h"

namespace pythia {

// A checkpoint's matrix, row-major, contiguous; dtype is f32, f16 or bf16.
struct SourceMatrix {
  WeightFormat dtype = WeightFormat::kF32;
  const std::byte* data = nullptr;
  int64_t rows = 0;       // outputs
  int64_t cols = 0;       // inputs
  int64_t first_row = 0;  // of the tensor that it is a part of: messages count from there
};

// True if every value of the source is held exactly by `format` (f32, f16 or bf16); NaN and infinity count as held.
bool holds_exactly(const SourceMatrix& source, WeightFormat format);

// Packs the matrix into `out` (packed_size_bytes). Rounds half to even where the format is narrower. Throws
// std::invalid_argument if a finite value overflows the format or, for q8 and q4, a value is not finite.
void pack_matrix(const SourceMatrix& source, WeightFormat format, std::byte* out);

// The values that a packed matrix stands for, float32 [rows, cols] row-major: what the kernels multiply by.
void unpack_matrix(WeightFormat format, const std::byte* packed, int64_t rows, int64_t cols, float* out);

// A vector or the rows of an embedding to another lossless format, n elements. Throws as pack_matrix.
void convert_elements(WeightFormat from, const std::byte* source, int64_t n, WeightFormat to, std::byte* out);

}  // namespace pythia
