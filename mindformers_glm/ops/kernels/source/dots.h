// Sixteen sums of products of bytes at a time: the innermost step of matmuls with integer weights, in the words of
// each instruction set. A step multiplies four neighbouring columns of sixteen rows (64 unsigned bytes, row after row)
// by four signed numbers and adds the products of each row to its sum.
#pragma once
#include "vectors.h"

namespace glm {

// GLM_AVX_VNNI_ONLY makes a CPU with AVX-512 run what one with AVX-VNNI alone would: for tests.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(GLM_AVX_VNNI_ONLY)

constexpr int kTokensAtOnce = 12;  // sums and totals of so many stay in registers
typedef __m512i Sums;
typedef __m512i Weights;

inline Sums sums_of(int32_t x) { return _mm512_set1_epi32(x); }
inline Weights read_weights(const uint8_t* p, int64_t rows) {
  return _mm512_maskz_loadu_epi32(__mmask16((1u << rows) - 1), p);
}
inline Weights low_halves(Weights w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
inline Weights high_halves(Weights w) { return low_halves(_mm512_srli_epi16(w, 4)); }
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  return _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(four));
}
inline Floats to_floats(Sums sums) { return (Floats)_mm512_cvtepi32_ps(sums); }

#elif defined(__AVX2__)

constexpr int kTokensAtOnce = 3;

struct Pair {
  __m256i a, b;
};
typedef Pair Sums;
typedef Pair Weights;

inline Sums sums_of(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Weights read_weights(const uint8_t* p, int64_t rows) {
  alignas(32) uint8_t all[64] = {};
  if (rows < kLanes) {
    std::memcpy(all, p, size_t(rows) * 4);
    p = all;
  }
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline Weights low_halves(Weights w) {
  __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
inline Weights high_halves(Weights w) { return low_halves({_mm256_srli_epi16(w.a, 4), _mm256_srli_epi16(w.b, 4)}); }

#if defined(__AVXVNNI__) || defined(GLM_AVX_VNNI_ONLY)

inline __m256i eight_dots(__m256i sums, __m256i w, __m256i x) {
#if defined(GLM_AVX_VNNI_ONLY)
  return _mm256_dpbusd_epi32(sums, w, x);
#else
  return _mm256_dpbusd_avx_epi32(sums, w, x);
#endif
}
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {eight_dots(sums.a, w.a, x), eight_dots(sums.b, w.b, x)};
}

#else

// Pairs of products are added in 16 bits. Weights of at most 15 fit; others would not, so they go in as their distance
// to 128, whose sign x takes, and what that leaves out is 128 times the sum of x: `sums` starts without it.
template <bool kSmall>
inline __m256i eight_dots(__m256i sums, __m256i w, __m256i x) {
  __m256i pairs;
  if (kSmall) {
    pairs = _mm256_maddubs_epi16(w, x);
  } else {
    __m256i away = _mm256_xor_si256(w, _mm256_set1_epi8(char(0x80)));
    pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(away, away), _mm256_sign_epi8(x, away));
  }
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {eight_dots<kSmall>(sums.a, w.a, x), eight_dots<kSmall>(sums.b, w.b, x)};
}
#define GLM_SIGNED_BYTES 1

// The same for any bytes, in products of 16 bits.
inline __m256i eight_whole(__m256i sums, __m256i w, __m256i x) {
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)),
                                   _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}
inline Sums add_whole(Sums sums, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {eight_whole(sums.a, w.a, x), eight_whole(sums.b, w.b, x)};
}

#endif

inline Floats to_floats(Sums sums) {
  __m256 parts[2] = {_mm256_cvtepi32_ps(sums.a), _mm256_cvtepi32_ps(sums.b)};
  Floats v;
  std::memcpy(&v, parts, sizeof v);
  return v;
}

#else

constexpr int kTokensAtOnce = 2;
typedef uint8_t Weights __attribute__((vector_size(64)));
typedef Ints Sums;

inline Sums sums_of(int32_t x) { return x - Ints{}; }
inline Weights read_weights(const uint8_t* p, int64_t rows) {
  Weights w = {};
  if (rows == kLanes) {
    std::memcpy(&w, p, sizeof w);
  } else {
    std::memcpy(&w, p, size_t(rows) * 4);
  }
  return w;
}
inline Weights low_halves(Weights w) { return w & 15; }
inline Weights high_halves(Weights w) { return w >> 4; }
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  Ints words;
  std::memcpy(&words, &w, sizeof words);
  for (int j = 0; j < 4; ++j) sums += ((words >> (8 * j)) & 255) * (int32_t(uint32_t(four) << (24 - 8 * j)) >> 24);
  return sums;
}
inline Floats to_floats(Sums sums) { return __builtin_convertvector(sums, Floats); }

#endif

#if !defined(GLM_SIGNED_BYTES)
#define GLM_SIGNED_BYTES 0
#endif
constexpr bool kSignedBytes = GLM_SIGNED_BYTES;  // add_dots takes 128 off weights of 8 bits itself

// add_dots for weights and numbers of all 256 values: exact, and nothing is taken off.
#if !GLM_SIGNED_BYTES
inline Sums add_whole(Sums sums, Weights w, int32_t four) { return add_dots<false>(sums, w, four); }
#endif

inline Ints to_ints(Sums sums) {
  Ints v;
  static_assert(sizeof v == sizeof sums);
  std::memcpy(&v, &sums, sizeof v);
  return v;
}

}  // namespace glm
