// What this instruction set can do at most: multiply-adds on registers and reads from memory, with nothing else in the way.
// Included through bodies.inl. Nothing here is part of a model; `pythia-cpu bench` holds the kernels against it.
#pragma once

#include "kernels/kernels.h"

namespace pythia {
namespace {

// Keeps `value`, and so all that it was computed from. Compilers may not know what the loops below are for.
inline void keep(int32_t value) {
  volatile int32_t kept = value;
  static_cast<void>(kept);
}

// Every loop over registers is unrolled: an array that is indexed lives in memory.
inline int64_t peak_fma_kernel(int64_t rounds) noexcept {
  constexpr int kChains = kTileRows * kTilePanels;
  float starts[kChains + kLanes];
  for (int i = 0; i < kChains + kLanes; ++i) starts[i] = static_cast<float>(i);
  asm volatile("" : : "r"(starts) : "memory");  // may be anything: of equal registers one would be computed for all
  Vec sum[kChains];
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) sum[i] = load(starts + i);
  const Vec factor = set1(0.999f), addend = set1(0.001f);  // values stay normal
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], factor, addend);
#pragma GCC unroll 32
  for (int i = 1; i < kChains; ++i) sum[0] = sum[0] + sum[i];
  keep(static_cast<int32_t>(reduce_add(sum[0])));
  return rounds * kChains * kLanes * 2;
}

inline int64_t peak_int8_kernel(int64_t rounds) noexcept {
  constexpr int kRows = kTileRows, kPanels = kTilePanels;
  alignas(64) uint8_t weights[kPanels][4 * kLanes];
  std::byte inputs[kRows][4 * kCodeBytes];
  IVec sum[kRows][kPanels];
  for (int p = 0; p < kPanels; ++p)
    for (int i = 0; i < 4 * kLanes; ++i) weights[p][i] = static_cast<uint8_t>(129 + p);
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < 4 * kCodeBytes; ++i) inputs[r][i] = static_cast<std::byte>(i % 2 ? -1 - r : 1 + r);  // sums stay small
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) sum[r][p] = set1_i(0);
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : : "r"(weights), "r"(inputs) : "memory");  // may differ in every round, so products cannot be hoisted
    Codes codes[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) codes[p] = load_codes(weights[p]);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sum[r][p] = dot_step(sum[r][p], codes[p], inputs[r]);
  }
  IVec total = set1_i(0);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) total = total + sum[r][p];
  keep(reduce_add_i(total));
  return rounds * kRows * kPanels * kLanes * 4 * 2;
}

inline void peak_read_kernel(const void* data, int64_t size_bytes) noexcept {
  constexpr int kStreams = 8;
  const auto* p = static_cast<const float*>(data);
  IVec sum[kStreams];
  for (IVec& s : sum) s = set1_i(0);
  for (int64_t i = 0; i + kStreams * kLanes <= size_bytes / 4; i += kStreams * kLanes)
#pragma GCC unroll 8
    for (int s = 0; s < kStreams; ++s) sum[s] = sum[s] + bits(load(p + i + s * kLanes));
  for (int s = 1; s < kStreams; ++s) sum[0] = sum[0] + sum[s];
  keep(reduce_add_i(sum[0]));
}

}  // namespace
}  // namespace pythia
