// Sixteen float lanes in four NEON registers (AArch64). Same names and bits as vec_portable.h.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "quant/float4.h"

namespace pythia {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTilePanels = 1;
constexpr int kSingleRowPanels = 4;
constexpr int kTogether = 2;

struct Vec {
  float32x4_t a, b, c, d;  // lanes 0-3, 4-7, 8-11, 12-15
};
struct IVec {
  int32x4_t a, b, c, d;
};
struct Mask {
  uint32x4_t a, b, c, d;  // all ones or zero
};

// f of each quarter of the arguments.
template <class To, class F, class... From>
inline To map(F f, const From&... x) {
  return {f(x.a...), f(x.b...), f(x.c...), f(x.d...)};
}

inline Vec set1(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
inline Vec zero() { return set1(0.0f); }
inline Vec load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
inline void store(float* p, Vec x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
inline Vec load_n(const float* p, int64_t n) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_n(float* p, Vec x, int64_t n) {
  if (n >= kLanes) return store(p, x);
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

inline Vec operator+(Vec x, Vec y) {
  return map<Vec>([](auto p, auto q) { return vaddq_f32(p, q); }, x, y);
}
inline Vec operator-(Vec x, Vec y) {
  return map<Vec>([](auto p, auto q) { return vsubq_f32(p, q); }, x, y);
}
inline Vec operator*(Vec x, Vec y) {
  return map<Vec>([](auto p, auto q) { return vmulq_f32(p, q); }, x, y);
}
inline Vec operator/(Vec x, Vec y) {
  return map<Vec>([](auto p, auto q) { return vdivq_f32(p, q); }, x, y);
}
inline Vec fma(Vec x, Vec y, Vec z) {
  return map<Vec>([](auto p, auto q, auto r) { return vfmaq_f32(r, p, q); }, x, y, z);
}
// x > y ? x : y, as maxps: not NEON's own, which give NaN or the number.
inline float32x4_t max_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline float32x4_t min_quarter(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline Vec max(Vec x, Vec y) { return map<Vec>(max_quarter, x, y); }
inline Vec min(Vec x, Vec y) { return map<Vec>(min_quarter, x, y); }

inline IVec bits(Vec x) {
  return map<IVec>([](auto p) { return vreinterpretq_s32_f32(p); }, x);
}
inline Vec from_bits(IVec x) {
  return map<Vec>([](auto p) { return vreinterpretq_f32_s32(p); }, x);
}
inline IVec set1_i(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
inline IVec operator+(IVec x, IVec y) {
  return map<IVec>([](auto p, auto q) { return vaddq_s32(p, q); }, x, y);
}
inline IVec operator-(IVec x, IVec y) {
  return map<IVec>([](auto p, auto q) { return vsubq_s32(p, q); }, x, y);
}
inline IVec operator&(IVec x, IVec y) {
  return map<IVec>([](auto p, auto q) { return vandq_s32(p, q); }, x, y);
}
inline IVec operator|(IVec x, IVec y) {
  return map<IVec>([](auto p, auto q) { return vorrq_s32(p, q); }, x, y);
}
template <int kBits>
inline IVec shift_left(IVec x) {
  return map<IVec>([](int32x4_t v) { return vshlq_n_s32(v, kBits); }, x);
}
template <int kBits>
inline IVec shift_right(IVec x) {
  return map<IVec>([](int32x4_t v) { return vshrq_n_s32(v, kBits); }, x);
}
inline IVec to_int(Vec x) {
  return map<IVec>([](auto p) { return vcvtq_s32_f32(p); }, x);
}
inline IVec round_to_int(Vec x) {
  return map<IVec>([](auto p) { return vcvtnq_s32_f32(p); }, x);
}
inline Vec to_float(IVec x) {
  return map<Vec>([](auto p) { return vcvtq_f32_s32(p); }, x);
}

inline Mask less(Vec x, Vec y) {
  return map<Mask>([](auto p, auto q) { return vcltq_f32(p, q); }, x, y);
}
inline uint32_t bit_mask(Mask m) {
  constexpr uint32_t kBits[4] = {1, 2, 4, 8};
  const uint32x4_t low = vld1q_u32(kBits);
  const uint32x4_t some = vorrq_u32(vandq_u32(m.a, low), vandq_u32(m.b, vshlq_n_u32(low, 4)));
  const uint32x4_t others = vorrq_u32(vandq_u32(m.c, vshlq_n_u32(low, 8)), vandq_u32(m.d, vshlq_n_u32(low, 12)));
  return vaddvq_u32(vorrq_u32(some, others));
}
inline Mask first_lanes(int64_t n) {
  constexpr int32_t kIndices[4] = {0, 1, 2, 3};
  const int32x4_t index = vld1q_s32(kIndices);
  const auto count = static_cast<int32_t>(n > kLanes ? kLanes : n < 0 ? 0 : n);
  const auto below = [&](int32_t first) { return vcltq_s32(index, vdupq_n_s32(count - first)); };
  return {below(0), below(4), below(8), below(12)};
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return map<Vec>([](auto p, auto q, auto r) { return vbslq_f32(p, q, r); }, m, yes, no);
}

inline float reduce_add(Vec x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float first_lane(Vec x) { return vgetq_lane_f32(x.a, 0); }
inline float reduce_max(Vec x) {
  const float32x4_t four = max_quarter(max_quarter(x.a, x.c), max_quarter(x.b, x.d));
  const float32x4_t two = max_quarter(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(max_quarter(two, vextq_f32(two, two, 1)), 0);
}
inline IVec max_i(IVec x, IVec y) {
  return map<IVec>([](auto p, auto q) { return vmaxq_s32(p, q); }, x, y);
}
inline int32_t reduce_max_i(IVec x) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d))); }
inline int32_t reduce_add_i(IVec x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
inline Int4 reduce_max_i(const IVec (&x)[4]) {
  return Int4{reduce_max_i(x[0]), reduce_max_i(x[1]), reduce_max_i(x[2]), reduce_max_i(x[3])};
}
inline Int4 reduce_add_i(const IVec (&x)[4]) {
  return Int4{reduce_add_i(x[0]), reduce_add_i(x[1]), reduce_add_i(x[2]), reduce_add_i(x[3])};
}

inline Vec load_f16(const void* p) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  const float16x8_t lo = vreinterpretq_f16_u8(vld1q_u8(bytes)), hi = vreinterpretq_f16_u8(vld1q_u8(bytes + 16));
  return {vcvt_f32_f16(vget_low_f16(lo)), vcvt_high_f32_f16(lo), vcvt_f32_f16(vget_low_f16(hi)), vcvt_high_f32_f16(hi)};
}
inline Vec load_bf16(const void* p) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  const uint16x8_t lo = vreinterpretq_u16_u8(vld1q_u8(bytes)), hi = vreinterpretq_u16_u8(vld1q_u8(bytes + 16));
  const auto widen = [](uint16x4_t h) { return vreinterpretq_f32_u32(vshll_n_u16(h, 16)); };
  return {widen(vget_low_u16(lo)), widen(vget_high_u16(lo)), widen(vget_low_u16(hi)), widen(vget_high_u16(hi))};
}

inline IVec widen_i16(int16x8_t lo, int16x8_t hi) {
  return {vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)};
}
inline IVec load_u8(const void* p) {
  const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(p));
  return widen_i16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_high_u8(bytes)));
}
inline IVec load_i8(const void* p) {
  const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
  return widen_i16(vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
}

struct Codes {
  uint8x16_t a, b, c, d;
};
inline Codes load_codes(const void* p) {
  const auto* q = static_cast<const uint8_t*>(p);
  return {vld1q_u8(q), vld1q_u8(q + 16), vld1q_u8(q + 32), vld1q_u8(q + 48)};
}
inline Codes low_levels(Codes packed, const uint8_t* table) {
  const uint8x16_t levels = vld1q_u8(table);
  return map<Codes>([&](uint8x16_t v) { return vqtbl1q_u8(levels, vandq_u8(v, vdupq_n_u8(15))); }, packed);
}
inline Codes high_levels(Codes packed, const uint8_t* table) {
  const uint8x16_t levels = vld1q_u8(table);
  return map<Codes>([&](uint8x16_t v) { return vqtbl1q_u8(levels, vshrq_n_u8(v, 4)); }, packed);
}

inline int16x8_t narrow_half(int32x4_t lo, int32x4_t hi) { return vmovn_high_s32(vmovn_s32(lo), hi); }
inline void store_int8(std::byte* p, IVec x) {
  vst1q_s8(reinterpret_cast<int8_t*>(p), vmovn_high_s16(vmovn_s16(narrow_half(x.a, x.b)), narrow_half(x.c, x.d)));
}
inline IVec load_i(const void* p) {
  const auto* q = static_cast<const int8_t*>(p);
  const auto lanes = [](const int8_t* bytes) { return vreinterpretq_s32_s8(vld1q_s8(bytes)); };
  return {lanes(q), lanes(q + 16), lanes(q + 32), lanes(q + 48)};
}
inline void store_i(int32_t* p, IVec x) {
  vst1q_s32(p, x.a);
  vst1q_s32(p + 4, x.b);
  vst1q_s32(p + 8, x.c);
  vst1q_s32(p + 12, x.d);
}
inline void store_i16(int16_t* p, IVec x) {
  vst1q_s16(p, narrow_half(x.a, x.b));
  vst1q_s16(p + 8, narrow_half(x.c, x.d));
}
inline void store_i16_apart(int16_t* p, IVec x) {
  int16_t codes[kLanes];
  store_i16(codes, x);
  for (int i = 0; i < kLanes; ++i) p[2 * i] = codes[i];
}

}  // namespace
}  // namespace pythia
