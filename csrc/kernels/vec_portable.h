// Sixteen float lanes in plain C++, for any machine. Included by one translation unit per instruction set (isa_*.cc).
//
// Vec and IVec are the whole vocabulary of the kernel bodies: vec_avx2.h, vec_avx512.h and vec_neon.h define the same names
// with the same results bit by bit.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/fma_exact.h"
#include "quant/float4.h"
#include "quant/half.h"

namespace pythia {
namespace {

constexpr int kLanes = 16;

// Register tiles of the matmuls: rows x panels of accumulators, and panels for a single row.
constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
constexpr int kSingleRowPanels = 2;
constexpr int kTogether = 1;  // vectors that elementwise functions take at a time

struct IVec {
  int32_t v[kLanes];
};

struct Mask {
  uint32_t v[kLanes];  // all ones or zero
};

struct Vec {
  float v[kLanes];
};

template <class F>
inline Vec map(F f) {
  Vec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}

template <class F>
inline IVec map_i(F f) {
  IVec r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}

template <class F>
inline Mask map_mask(F f) {
  Mask r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i) ? 0xffffffffu : 0u;
  return r;
}

inline Vec set1(float x) {
  return map([&](int) { return x; });
}
inline Vec zero() { return set1(0.0f); }
inline Vec load(const float* p) {
  return map([&](int i) { return p[i]; });
}
inline Vec load_n(const float* p, int64_t n) {
  return map([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_n(float* p, Vec a, int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = a.v[i];
}

inline Vec operator+(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec operator-(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec operator*(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec operator/(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return map([&](int i) { return fma_exact(a.v[i], b.v[i], c.v[i]); });
}
// a > b ? a : b, as maxps.
inline Vec max(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(Vec a, Vec b) {
  return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}

inline IVec bits(Vec a) { return std::bit_cast<IVec>(a); }
inline Vec from_bits(IVec a) { return std::bit_cast<Vec>(a); }
inline IVec set1_i(int32_t x) {
  return map_i([&](int) { return x; });
}
inline IVec operator+(IVec a, IVec b) {
  return map_i([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
}
inline IVec operator-(IVec a, IVec b) {
  return map_i([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i])); });
}
inline IVec operator&(IVec a, IVec b) {
  return map_i([&](int i) { return a.v[i] & b.v[i]; });
}
inline IVec operator|(IVec a, IVec b) {
  return map_i([&](int i) { return a.v[i] | b.v[i]; });
}
template <int kBits>
inline IVec shift_left(IVec a) {
  return map_i([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits); });
}
template <int kBits>
inline IVec shift_right(IVec a) {  // arithmetic
  return map_i([&](int i) { return a.v[i] >> kBits; });
}
// Of an integral value within int32; the kernels clamp first.
inline IVec to_int(Vec a) {
  return map_i([&](int i) { return static_cast<int32_t>(a.v[i]); });
}
// Of a value within int32, half to even.
inline IVec round_to_int(Vec a) {
  return map_i([&](int i) { return static_cast<int32_t>(__builtin_nearbyintf(a.v[i])); });
}
inline Vec to_float(IVec a) {
  return map([&](int i) { return static_cast<float>(a.v[i]); });
}

inline Mask less(Vec a, Vec b) {
  return map_mask([&](int i) { return a.v[i] < b.v[i]; });
}
inline uint32_t bit_mask(Mask m) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (m.v[i] & 1u) << i;
  return bits;
}
inline Mask first_lanes(int64_t n) {
  return map_mask([&](int i) { return i < n; });
}
inline Vec select(Mask m, Vec yes, Vec no) {
  return map([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}

// The fixed fold of the 16 lanes: halves of 8, 4, 2, 1.
inline float reduce_add(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  return a.v[0];
}
inline float first_lane(Vec a) { return a.v[0]; }
inline float reduce_max(Vec a) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}
inline IVec max_i(IVec a, IVec b) {
  return map_i([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline int32_t reduce_max_i(IVec a) {
  int32_t top = a.v[0];
  for (int32_t x : a.v) top = x > top ? x : top;
  return top;
}
inline int32_t reduce_add_i(IVec a) {
  uint32_t sum = 0;
  for (int32_t x : a.v) sum += static_cast<uint32_t>(x);
  return static_cast<int32_t>(sum);
}
// Of four vectors at once.
inline Int4 reduce_max_i(const IVec (&x)[4]) {
  return Int4{reduce_max_i(x[0]), reduce_max_i(x[1]), reduce_max_i(x[2]), reduce_max_i(x[3])};
}
inline Int4 reduce_add_i(const IVec (&x)[4]) {
  return Int4{reduce_add_i(x[0]), reduce_add_i(x[1]), reduce_add_i(x[2]), reduce_add_i(x[3])};
}

inline Vec load_f16(const void* p) {
  uint16_t h[kLanes];
  std::memcpy(h, p, sizeof h);
  return map([&](int i) { return f16_to_float(h[i]); });
}
inline Vec load_bf16(const void* p) {
  uint16_t h[kLanes];
  std::memcpy(h, p, sizeof h);
  return map([&](int i) { return std::bit_cast<float>(static_cast<uint32_t>(h[i]) << 16); });
}
// Sixteen bytes, one a lane.
inline IVec load_u8(const void* p) {
  uint8_t bytes[kLanes];
  std::memcpy(bytes, p, sizeof bytes);
  return map_i([&](int i) { return bytes[i]; });
}
inline IVec load_i8(const void* p) {
  int8_t bytes[kLanes];
  std::memcpy(bytes, p, sizeof bytes);
  return map_i([&](int i) { return bytes[i]; });
}

// Sixteen outputs' weight codes for four inputs, [16][4] bytes.
struct Codes {
  uint8_t v[4 * kLanes];
};
inline Codes load_codes(const void* p) {
  Codes c;
  std::memcpy(c.v, p, sizeof c.v);
  return c;
}
// Two codes a byte to their levels as unsigned codes (level + 128), by a table of 16.
inline Codes low_levels(Codes packed, const uint8_t* table) {
  for (uint8_t& c : packed.v) c = table[c & 15];
  return packed;
}
inline Codes high_levels(Codes packed, const uint8_t* table) {
  for (uint8_t& c : packed.v) c = table[c >> 4];
  return packed;
}

// Lanes to int8, values within [-128, 127].
inline void store_int8(std::byte* p, IVec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::byte>(a.v[i]);
}

// Lanes as they lie in memory of any type.
inline IVec load_i(const void* p) {
  IVec a;
  std::memcpy(a.v, p, sizeof a.v);
  return a;
}
inline void store_i(int32_t* p, IVec a) { std::memcpy(p, a.v, sizeof a.v); }
// Lanes to int16, values within its range.
inline void store_i16(int16_t* p, IVec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int16_t>(a.v[i]);
}
// Lanes to every second int16 from p on; what lies between is not touched.
inline void store_i16_apart(int16_t* p, IVec a) {
  for (int i = 0; i < kLanes; ++i) p[2 * i] = static_cast<int16_t>(a.v[i]);
}

}  // namespace
}  // namespace pythia
