#include "model/rotary.h"

#include <algorithm>
#include <bit>

#include "common/exact_math.h"
#include "common/fp_environment.h"

namespace pythia {
namespace {

// The double routines below use +, -, *, / alone, so that libm's differences between machines do not reach the logits. Their
// errors (below 1e-13) vanish in the rounding to float.

// exp(x) for |x| < 700: x = n ln 2 + r, Taylor in r.
double exponential(double x) {
  const double n = static_cast<double>(static_cast<int64_t>(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5)));
  const double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double sum = 1.0;
  for (int k = 18; k >= 1; --k) sum = 1.0 + sum * r / k;
  return sum * std::bit_cast<double>(static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52);
}

struct SinCos {
  double sin, cos;
};

// sin and cos for 0 <= x < 2^21: reduction to [-pi/4, pi/4] by a three-part pi/2 (33 bits each in the first two), then Taylor.
SinCos sin_cos(double x) {
  const double n = static_cast<double>(static_cast<int64_t>(x * 0.6366197723675814 + 0.5));
  const double r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21;
  const double square = r * r;
  double sin = 0.0, cos = 0.0;
  for (int k = 10; k >= 1; --k) {
    sin = (1.0 + sin) * -square / (2.0 * k * (2.0 * k + 1.0));
    cos = (1.0 + cos) * -square / (2.0 * k * (2.0 * k - 1.0));
  }
  sin = r * (1.0 + sin);
  cos = 1.0 + cos;
  switch (static_cast<int64_t>(n) & 3) {
    case 0: return {sin, cos};
    case 1: return {cos, -sin};
    case 2: return {-sin, -cos};
    default: return {-cos, sin};
  }
}

}  // namespace

RotaryTable::RotaryTable(const Config& config)
    : half_(config.rotary_ndims / 2),
      table_(std::max<int64_t>(1, int64_t{config.max_position_embeddings} * config.rotary_ndims)) {
  const FpEnvironment fp_environment;
  // transformers: inv_freq = 1.0 / (base ** (arange(0, dim, 2).float() / dim)), all in float32.
  const double log_base = log_exact(config.rotary_emb_base);
  AlignedBuffer<float> inv_freq(std::max<int64_t>(1, half_));
  for (int64_t i = 0; i < half_; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.rotary_ndims);
    const float power = static_cast<float>(exponential(log_base * static_cast<double>(exponent)));
    inv_freq.data()[i] = 1.0f / power;
  }
  for (int64_t position = 0; position < config.max_position_embeddings; ++position) {
    float* row = table_.data() + position * 2 * half_;
    for (int64_t i = 0; i < half_; ++i) {
      const float angle = static_cast<float>(position) * inv_freq.data()[i];
      const SinCos value = sin_cos(static_cast<double>(angle));
      row[i] = static_cast<float>(value.cos);
      row[half_ + i] = static_cast<float>(value.sin);
    }
  }
}

}  // namespace pythia
