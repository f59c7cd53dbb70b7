// What is computed with sixteen numbers at a time, on every CPU.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace glm {

enum Kind : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2, kInt8 = 3, kInt4 = 4, kW8A8 = 5 };

inline Floats splat(float x) { return x - Floats{}; }  // x - 0 is x and costs nothing, 0 + x is an addition

inline Floats load(const float* p) { return read<Floats>(p); }

inline void store(float* p, Floats v) { write(p, v); }

inline Ints numbered() {
  static const int32_t numbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return read<Ints>(numbers);
}

inline float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023, bits;
  if (exponent == 0) {
    float small = std::ldexp(float(fraction), -24);
    return sign ? -small : small;
  }
  bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (fraction << 13);
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline float bfloat_to_float(uint16_t h) {
  uint32_t bits = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline uint16_t float_to_half(float f) {  // to nearest, ties to even; beyond 65504 infinite
#if defined(__F16C__)
  return uint16_t(_cvtss_sh(f, 0));
#elif defined(__aarch64__)
  __fp16 half = __fp16(f);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
#else
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  uint32_t sign = (bits >> 16) & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (bits >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // below 2^-14: in steps of 2^-24, which adding 1/2 leaves in the last bits
    float size;
    std::memcpy(&size, &bits, 4);
    size += 0.5f;
    std::memcpy(&bits, &size, 4);
    return uint16_t(sign | (bits - 0x3f000000u));
  }
  bits += 0xfffu + ((bits >> 13) & 1);
  return uint16_t(sign | ((bits - 0x38000000u) >> 13));
#endif
}

inline uint16_t float_to_bfloat(float f) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 64);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline Floats load_bfloats(const uint16_t* p) { return bits_as<Floats>(convert<Ints>(read<Halves>(p)) << 16); }

inline Floats load_halves(const uint16_t* p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__) && defined(__F16C__)
  return {(FloatRegister)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          (FloatRegister)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
#elif defined(__aarch64__)
  auto four = [&](int i) { return (FloatRegister)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + i))); };
  return {{four(0), four(4)}, {four(8), four(12)}};
#else
  float numbers[kLanes];
  for (int i = 0; i < kLanes; ++i) numbers[i] = half_to_float(p[i]);
  return load(numbers);
#endif
}

// A number format of weights, read sixteen at a time or singly.
struct Float32 {
  typedef float Stored;
  static Floats read(const float* p) { return load(p); }
  static float one(float x) { return x; }
};

struct Bfloat16 {
  typedef uint16_t Stored;
  static Floats read(const uint16_t* p) { return load_bfloats(p); }
  static float one(uint16_t x) { return bfloat_to_float(x); }
};

struct Float16 {
  typedef uint16_t Stored;
  static Floats read(const uint16_t* p) { return load_halves(p); }
  static float one(uint16_t x) { return half_to_float(x); }
};

inline Ints load_bytes(const int8_t* p) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
  return {(IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          (IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
#else
  int32_t numbers[kLanes];
  for (int i = 0; i < kLanes; ++i) numbers[i] = p[i];
  return read<Ints>(numbers);
#endif
}

inline void store_bytes(int8_t* p, Ints v) {  // the lowest eight bits of each
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v));
#else
  int32_t numbers[kLanes];
  write(numbers, v);
  for (int i = 0; i < kLanes; ++i) p[i] = int8_t(numbers[i]);
#endif
}

struct Int8 {
  typedef int8_t Stored;
  static Floats read(const int8_t* p) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
    return convert<Floats>(load_bytes(p));
#endif
  }
  static float one(int8_t x) { return float(x); }
};

inline float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float all[kLanes], s[8];
  write(all, v);
  for (int i = 0; i < 8; ++i) s[i] = all[i] + all[i + 8];
  return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
#endif
}

inline double sum(Doubles v) {
  double all[kLanes], s[4] = {};
  write(all, v);
  for (int i = 0; i < kLanes; ++i) s[i & 3] += all[i];
  return (s[0] + s[2]) + (s[1] + s[3]);
}

inline Doubles squares(Floats v) {
  Doubles wide = convert<Doubles>(v);
  return wide * wide;
}

inline Floats larger(Floats a, Floats b) {  // b where one is not a number
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return choose(a > b, a, b);
#endif
}

inline float highest(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#endif
  float all[kLanes];
  write(all, v);
  float best = all[0];
  for (int i = 1; i < kLanes; ++i) best = all[i] > best ? all[i] : best;
  return best;
}

inline int32_t sum(Ints v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t all[kLanes], s = 0;
  write(all, v);
  for (int i = 0; i < kLanes; ++i) s += all[i];
  return s;
#endif
}

// e^x within 2 units in the last place: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial in r, n into the exponent.
inline Floats exponential(Floats x) {
#if defined(__AVX512F__)
  x = (Floats)_mm512_min_ps(_mm512_set1_ps(88.0f), _mm512_max_ps(_mm512_set1_ps(-87.0f), (__m512)x));
  Floats n = (Floats)_mm512_roundscale_ps((__m512)(x * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT);
#else
  x = choose(x < -87.0f, splat(-87.0f), x);
  x = choose(x > 88.0f, splat(88.0f), x);
  Floats scaled = x * 1.44269504088896341f;
  Floats shifted = scaled + 12582912.0f;  // 1.5 * 2^23 rounds to a whole number
  Floats n = shifted - 12582912.0f;
#endif
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if defined(__AVX512F__)
  return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  return p * bits_as<Floats>((convert<Ints>(n) + 127) << 23);
#endif
}

inline Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

// The first `count` (up to 16) numbers, others 0.
inline Floats load_some(const float* p, int64_t count) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
  if (count == kLanes) return load(p);
  float numbers[kLanes] = {};
  std::memcpy(numbers, p, size_t(count) * sizeof(float));
  return load(numbers);
#endif
}

inline void store_some(float* p, Floats v, int64_t count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
#else
  if (count == kLanes) return store(p, v);
  float numbers[kLanes];
  store(numbers, v);
  std::memcpy(p, numbers, size_t(count) * sizeof(float));
#endif
}

}  // namespace glm
