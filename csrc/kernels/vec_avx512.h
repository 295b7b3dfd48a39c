// Sixteen float lanes in one AVX-512 register. Same names and bits as vec_portable.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "quant/float4.h"

namespace pythia {
namespace {

constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
constexpr int kSingleRowPanels = 8;
constexpr int kTogether = 8;

struct Vec {
  __m512 v;
};
struct IVec {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Mask first_lanes(int64_t n) { return {static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1u)}; }
inline Vec load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n).v, p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store_n(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n).v, a.v); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }

inline IVec bits(Vec a) { return {_mm512_castps_si512(a.v)}; }
inline Vec from_bits(IVec a) { return {_mm512_castsi512_ps(a.v)}; }
inline IVec set1_i(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline IVec operator+(IVec a, IVec b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline IVec operator-(IVec a, IVec b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline IVec operator&(IVec a, IVec b) { return {_mm512_and_si512(a.v, b.v)}; }
inline IVec operator|(IVec a, IVec b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int kBits>
inline IVec shift_left(IVec a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline IVec shift_right(IVec a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline IVec to_int(Vec a) { return {_mm512_cvttps_epi32(a.v)}; }
inline IVec round_to_int(Vec a) { return {_mm512_cvtps_epi32(a.v)}; }
inline Vec to_float(IVec a) { return {_mm512_cvtepi32_ps(a.v)}; }

inline Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline uint32_t bit_mask(Mask m) { return m.v; }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }

inline float reduce_add(Vec a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float first_lane(Vec a) { return _mm512_cvtss_f32(a.v); }
inline float reduce_max(Vec a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline IVec max_i(IVec a, IVec b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline int32_t reduce_max_i(IVec a) { return _mm512_reduce_max_epi32(a.v); }
inline int32_t reduce_add_i(IVec a) { return _mm512_reduce_add_epi32(a.v); }
template <class F>
inline Int4 reduce_four(const IVec (&a)[4], F f) {
  const auto together = [f](IVec p, IVec q) {
    return f(IVec{_mm512_unpacklo_epi32(p.v, q.v)}, IVec{_mm512_unpackhi_epi32(p.v, q.v)}).v;
  };
  const __m512i ab = together(a[0], a[1]), cd = together(a[2], a[3]);
  const IVec all = f(IVec{_mm512_unpacklo_epi64(ab, cd)}, IVec{_mm512_unpackhi_epi64(ab, cd)});
  const IVec half = f(all, IVec{_mm512_shuffle_i64x2(all.v, all.v, 0x4e)});
  return __builtin_bit_cast(Int4, _mm512_castsi512_si128(f(half, IVec{_mm512_shuffle_i64x2(half.v, half.v, 0xb1)}).v));
}
inline Int4 reduce_max_i(const IVec (&a)[4]) {
  return reduce_four(a, [](IVec p, IVec q) { return max_i(p, q); });
}
inline Int4 reduce_add_i(const IVec (&a)[4]) {
  return reduce_four(a, [](IVec p, IVec q) { return p + q; });
}

inline Vec load_f16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
inline Vec load_bf16(const void* p) {
  return {
      _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16))};
}

inline IVec load_u8(const void* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))}; }
inline IVec load_i8(const void* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))}; }

struct Codes {
  __m512i v;
};
inline Codes load_codes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline Codes levels_of(__m512i indices, const uint8_t* table) {
  const __m512i levels = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm512_shuffle_epi8(levels, indices)};
}
inline Codes low_levels(Codes packed, const uint8_t* table) {
  return levels_of(_mm512_and_si512(packed.v, _mm512_set1_epi8(15)), table);
}
inline Codes high_levels(Codes packed, const uint8_t* table) {
  return levels_of(_mm512_and_si512(_mm512_srli_epi16(packed.v, 4), _mm512_set1_epi8(15)), table);
}
inline void store_int8(std::byte* p, IVec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }
inline IVec load_i(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_i(int32_t* p, IVec a) { _mm512_storeu_si512(p, a.v); }
inline void store_i16(int16_t* p, IVec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v)); }
inline void store_i16_apart(int16_t* p, IVec a) { _mm512_mask_storeu_epi16(p, 0x55555555u, a.v); }

}  // namespace
}  // namespace pythia
