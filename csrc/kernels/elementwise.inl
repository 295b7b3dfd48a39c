// exp, log, tanh and the activations as fixed polynomials (constants from tools/fit_polynomials.py). Every step is an IEEE
// operation, so results have the same bits on every machine; errors are in docs/numerics.md. Included through bodies.inl.
#pragma once

#include "kernels/kernels.h"
#include "quant/float4.h"

namespace pythia {
namespace {

inline constexpr float kExpPoly[] = {5.e-01f, 1.6666667e-01f, 4.166627e-02f, 8.333264e-03f, 1.394612e-03f, 1.9918424e-04f};
inline constexpr float kExp2Poly[] = {6.93147e-01f, 2.4022242e-01f, 5.5507336e-02f, 9.671513e-03f, 1.3264721e-03f};
inline constexpr float kErfcPoly[] = {1.1511045e+00f, 4.592195e-01f,  5.2443508e-02f, -6.948687e-03f, 2.91708e-06f,
                                      2.751663e-04f,  -7.318594e-05f, 9.8331975e-06f, -6.77838e-07f,  1.848303e-08f};
inline constexpr float kTanhPoly[] = {-3.3333284e-01f, 1.3331491e-01f, -5.3743497e-02f, 2.0650586e-02f, -5.7170447e-03f};
inline constexpr float kLogPoly[] = {3.3333313e-01f,  -2.500001e-01f, 2.0002119e-01f,  -1.6667996e-01f, 1.4219551e-01f,
                                     -1.2405592e-01f, 1.1888178e-01f, -1.1675639e-01f, 6.746592e-02f};
inline constexpr float kTanhSplit = 0.625f;  // tanh: odd polynomial below, 1 - 2 / (exp(2x) + 1) above
inline constexpr float kErfcEnd = 13.2f;     // erfc(t / sqrt 2) is below 2^-126 from there on

// Horner's rule, one fused multiply-add a coefficient.
template <int kCount>
inline Vec polynomial(const float (&c)[kCount], Vec t) {
  Vec p = set1(c[kCount - 1]);
  for (int i = kCount - 2; i >= 0; --i) p = fma(p, t, set1(c[i]));
  return p;
}

inline Vec infinity() { return from_bits(set1_i(0x7f800000)); }
inline Vec minus_infinity() { return from_bits(set1_i(INT32_MIN | 0x7f800000)); }
inline Vec not_a_number() { return from_bits(set1_i(0x7fc00000)); }

inline Vec abs(Vec x) { return from_bits(bits(x) & set1_i(0x7fffffff)); }
inline Vec copy_sign(Vec magnitude, Vec sign) {
  return from_bits((bits(magnitude) & set1_i(0x7fffffff)) | (bits(sign) & set1_i(INT32_MIN)));
}

// kExpPoly holds for |r| up to here: exp(r) = 1 + r + r^2 P(r).
inline constexpr float kHalfLn2 = 0.3465736f;

// exp(x) = p * 2^n, the two factors.
struct ExpParts {
  Vec p;        // in [0.7, 1.5)
  Vec shifted;  // n + kRoundingMagic, whose low bits are n
};
inline ExpParts exp_parts(Vec x) {
  const Vec shifted = fma(x, set1(1.44269504f), set1(kRoundingMagic));
  const Vec n = shifted - set1(kRoundingMagic);
  const Vec r = fma(n, set1(-1.42860677e-06f), fma(n, set1(-0.693145752f), x));  // ln 2 in two parts
  return {fma(r * r, polynomial(kExpPoly, r), r) + set1(1.0f), shifted};
}

// ln(2^-126): exp is zero below.
inline constexpr float kExpLow = -87.33654f;

// exp(x) for x <= 1, taken at kExpLow below that: 2^n multiplies by adding to the exponent.
inline Vec exp_clamped(Vec x) {
  const ExpParts parts = exp_parts(max(x, set1(kExpLow)));
  return from_bits(bits(parts.p) + shift_left<23>(bits(parts.shifted)));
}

// Functions of several vectors, kTogether of them, go step by step over all: one alone waits for each of its steps. step(i) for
// i = 0 .. kCount - 1.
template <int kCount, class F>
inline void each(F step) {
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) step(i);
}

// 2^(n + f) from n + kRoundingMagic and |f| <= 1/2, into f.
template <int kCount>
inline void exp2_parts(const Vec (&shifted)[kCount], Vec (&f)[kCount]) {
  Vec p[kCount];
  each<kCount>([&](int i) { p[i] = set1(kExp2Poly[4]); });
#pragma GCC unroll 4
  for (int power = 3; power >= 0; --power) each<kCount>([&](int i) { p[i] = fma(p[i], f[i], set1(kExp2Poly[power])); });
  each<kCount>([&](int i) { p[i] = fma(p[i], f[i], set1(1.0f)); });
  each<kCount>([&](int i) { f[i] = from_bits(bits(p[i]) + shift_left<23>(bits(shifted[i]))); });
}

// 2^x for x <= 1, taken at -126 below that; 2^0 is 1.
template <int kCount>
inline void exp2_clamped(Vec (&x)[kCount]) {
  Vec shifted[kCount];
  each<kCount>([&](int i) { x[i] = max(x[i], set1(-126.0f)); });
  each<kCount>([&](int i) { shifted[i] = x[i] + set1(kRoundingMagic); });
  each<kCount>([&](int i) { x[i] = x[i] - (shifted[i] - set1(kRoundingMagic)); });
  exp2_parts(shifted, x);
}
inline Vec exp2_clamped(Vec x) {
  Vec one[] = {x};
  exp2_clamped(one);
  return one[0];
}

// exp(x) for finite or infinite x: 0 below kExpLow, infinity above ln(FLT_MAX). NaN gives an unspecified fixed value.
inline Vec exp(Vec x) {
  const Vec low = set1(kExpLow), high = set1(88.72283f);
  const ExpParts parts = exp_parts(min(max(x, low), high));
  // 2^n in two steps: n reaches 128.
  const IVec n = to_int(parts.shifted - set1(kRoundingMagic)), half = shift_right<1>(n);
  const auto power_of_two = [](IVec e) { return from_bits(shift_left<23>(e + set1_i(127))); };
  const Vec y = (parts.p * power_of_two(half)) * power_of_two(n - half);
  return select(less(x, low), zero(), select(less(high, x), infinity(), y));
}

// log(x) for positive normal x; log(0) = -infinity, log(infinity) = infinity, negative or NaN gives NaN.
inline Vec log(Vec x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt(2))
  const IVec shifted = bits(x) - set1_i(0x3f3504f3);
  const Vec e = to_float(shift_right<23>(shifted));
  const Vec m = from_bits((shifted & set1_i(0x007fffff)) + set1_i(0x3f3504f3));
  const Vec f = m - set1(1.0f);
  const Vec square = f * f;
  const Vec tail = fma(square * f, polynomial(kLogPoly, f), e * set1(1.42860677e-06f));
  const Vec y = fma(e, set1(0.693145752f), f + fma(square, set1(-0.5f), tail));
  const Vec finite = select(less(x, infinity()), y, infinity());
  const Vec tiny = select(less(x, zero()), not_a_number(), select(less(zero(), x), finite, minus_infinity()));
  const Vec is_number = select(less(x, infinity()), tiny, select(less(set1(3.0e38f), x), infinity(), not_a_number()));
  return is_number;
}

inline Vec tanh(Vec x) {
  const Vec a = min(abs(x), set1(10.0f));
  const Vec square = a * a;
  const Vec small = fma(a * square, polynomial(kTanhPoly, square), a);
  const Vec large = set1(1.0f) - set1(2.0f) / (exp(a + a) + set1(1.0f));
  return copy_sign(select(less(a, set1(kTanhSplit)), small, large), x);
}

inline Vec sigmoid(Vec x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

// x / 2 * (1 + erf(x / sqrt 2)). With e = erfc(|x| / sqrt 2) = 2^(-t P(t)), t = |x|, the second factor is e for negative x,
// else 2 - e.
template <int kCount>
inline void gelu(Vec (&x)[kCount]) {
  Vec t[kCount], e[kCount];
  each<kCount>([&](int i) { t[i] = min(abs(x[i]), set1(kErfcEnd)); });
  each<kCount>([&](int i) { e[i] = set1(kErfcPoly[9]); });
#pragma GCC unroll 9
  for (int power = 8; power >= 0; --power) each<kCount>([&](int i) { e[i] = fma(e[i], t[i], set1(kErfcPoly[power])); });
  each<kCount>([&](int i) { e[i] = zero() - t[i] * e[i]; });
  exp2_clamped(e);
  each<kCount>([&](int i) { x[i] = (x[i] * set1(0.5f)) * select(less(x[i], zero()), e[i], set1(2.0f) - e[i]); });
}
inline Vec gelu(Vec x) {
  Vec one[] = {x};
  gelu(one);
  return one[0];
}

inline Vec gelu_tanh(Vec x) {
  const Vec inner = set1(0.797884561f) * fma(set1(0.044715f) * x, x * x, x);
  return (x * set1(0.5f)) * (set1(1.0f) + tanh(inner));
}

// y = f(x) over n elements, any alignment.
template <class F>
inline void for_lanes(const float* x, int64_t n, float* y, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(x + i)));
  if (i < n) store_n(y + i, f(load_n(x + i, n - i)), n - i);
}

void exp_kernel(const float* x, int64_t n, float* y) noexcept {
  for_lanes(x, n, y, [](Vec v) { return exp(v); });
}
void exp2_kernel(const float* x, int64_t n, float* y) noexcept {
  for_lanes(x, n, y, [](Vec v) { return exp2_clamped(min(v, set1(1.0f))); });
}
void log_kernel(const float* x, int64_t n, float* y) noexcept {
  for_lanes(x, n, y, [](Vec v) { return log(v); });
}
void tanh_kernel(const float* x, int64_t n, float* y) noexcept {
  for_lanes(x, n, y, [](Vec v) { return tanh(v); });
}

void gelu_row(float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kTogether * kLanes <= n; i += kTogether * kLanes) {
    Vec several[kTogether];
    each<kTogether>([&](int k) { several[k] = load(x + i + k * kLanes); });
    gelu(several);
    each<kTogether>([&](int k) { store(x + i + k * kLanes, several[k]); });
  }
  for_lanes(x + i, n - i, x + i, [](Vec v) { return gelu(v); });
}

void activation_kernel(Activation act, float* x, int64_t n) noexcept {
  switch (act) {
    case Activation::kGelu: return gelu_row(x, n);
    case Activation::kGeluTanh: return for_lanes(x, n, x, [](Vec v) { return gelu_tanh(v); });
    case Activation::kRelu: return for_lanes(x, n, x, [](Vec v) { return select(less(v, zero()), zero(), v); });
    case Activation::kSilu: return for_lanes(x, n, x, [](Vec v) { return v * sigmoid(v); });
    case Activation::kQuickGelu: return for_lanes(x, n, x, [](Vec v) { return v * sigmoid(v * set1(1.702f)); });
  }
}

}  // namespace
}  // namespace pythia
