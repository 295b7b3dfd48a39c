#include "model/softmax_row.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

namespace pythia {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kLanes = 16;  // compilers make vectors of them

// Calls body(lane, number), number i in lane i mod 16.
template <class Body>
void for_lanes(std::span<const float> row, Body body) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane) body(lane, row[i + lane]);
  for (std::size_t lane = 0; i < row.size(); ++i, ++lane) body(lane, row[i]);
}

// NaN if there is a NaN or an infinity.
float largest_of(std::span<const float> row) noexcept {
  std::array<float, kLanes> tops;
  std::array<int32_t, kLanes> odd{};
  tops.fill(-kInfinity);
  for_lanes(row, [&](std::size_t lane, float score) {
    tops[lane] = score > tops[lane] ? score : tops[lane];
    odd[lane] |= !(score < kInfinity);
  });
  const bool is_odd = std::ranges::any_of(odd, [](int32_t lane) { return lane != 0; });
  return is_odd ? std::numeric_limits<float>::quiet_NaN() : std::ranges::max(tops);
}

double sum_of(std::span<const float> row) noexcept {
  std::array<double, kLanes> sums{};
  for_lanes(row, [&](std::size_t lane, float weight) { sums[lane] += static_cast<double>(weight); });
  for (std::size_t half = kLanes / 2; half > 0; half /= 2)
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

}  // namespace

void softmax_row(const KernelTable& kernels, std::span<float> row) noexcept {
  const float largest = largest_of(row);
  if (!(largest > -kInfinity)) {  // nothing to see, or NaN
    std::ranges::fill(row, largest == -kInfinity ? 0.0f : largest);
    return;
  }
  std::size_t seen = row.size();
  while (row[seen - 1] == -kInfinity) row[--seen] = 0.0f;
  row = row.first(seen);
  for (float& score : row) score -= largest;
  kernels.exp(row.data(), static_cast<int64_t>(seen), row.data());
  const double inverse = 1.0 / sum_of(row);
  for (float& weight : row) weight = static_cast<float>(weight * inverse);
}

}  // namespace pythia
