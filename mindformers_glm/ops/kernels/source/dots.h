// Sixteen sums of products of bytes at a time: the innermost step of matmuls with integer weights, in the words of
// each instruction set. A step multiplies four neighbouring columns of sixteen rows of a weight (64 unsigned bytes, row
// after row) by four signed numbers of a token and adds the products of each row to its sum. `add_steps` does so for
// some tokens.
#pragma once
#include "vectors.h"

namespace glm {

// GLM_AVX_VNNI_ONLY makes a CPU with AVX-512 run what one with AVX-VNNI alone would: for tests.
#if defined(__AVX512BW__) && !defined(GLM_AVX_VNNI_ONLY)

constexpr int kTokensAtOnce = 12;  // sums and totals of so many stay in registers
typedef __m512i Sums;
typedef __m512i Weights;

inline Sums sums_of(int32_t x) { return _mm512_set1_epi32(x); }
inline Weights read_weights(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Weights low_halves(Weights w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
inline Weights high_halves(Weights w) { return low_halves(_mm512_srli_epi16(w, 4)); }

#if defined(__AVX512VNNI__)

template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  return _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(four));
}

// With the four numbers where they are, which costs nothing in one instruction; compilers make two.
#define GLM_DOTS_AT 1
typedef int32_t __attribute__((may_alias)) Four;
template <bool kSmall>
inline Sums add_dots_at(Sums sums, Weights w, const char* four) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*reinterpret_cast<const Four*>(four)));
  return sums;
}

#else

// As with AVX2, see below.
inline __m512i added(__m512i sum) {
  asm("" : "+v"(sum));
  return sum;
}
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  __m512i x = _mm512_set1_epi32(four), pairs;
  if (kSmall) {
    pairs = _mm512_maddubs_epi16(w, x);
  } else {
    __m512i away = _mm512_xor_si512(w, _mm512_set1_epi8(char(0x80)));
    x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(away), _mm512_setzero_si512(), x);
    pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(away), x);
  }
  return added(_mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1))));
}
#define GLM_SIGNED_BYTES 1

#define GLM_SHORT_STEPS 8
inline Sums short_dots(Sums shorts, Weights w, int32_t four) {
  return added(_mm512_add_epi16(shorts, _mm512_maddubs_epi16(w, _mm512_set1_epi32(four))));
}
inline Sums add_shorts(Sums sums, Sums shorts) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(shorts, _mm512_set1_epi16(1)));
}

inline Sums add_whole(Sums sums, Weights w, int32_t four) {
  __m512i x = _mm512_set1_epi32(four);
  __m512i even =
      _mm512_madd_epi16(_mm512_and_si512(w, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8));
  __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(w, 8), _mm512_srai_epi16(x, 8));
  return added(_mm512_add_epi32(sums, _mm512_add_epi32(even, odd)));
}

#endif

typedef __m512 Totals;
inline Totals read_scales(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline Totals times(Totals scale, float x) { return _mm512_mul_ps(scale, _mm512_set1_ps(x)); }
inline void add_scaled(Totals& total, Sums sums, Totals scale) {
  total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, total);
}
inline Floats to_floats(Totals total) { return (Floats)total; }

#elif defined(__AVX2__)

#if defined(__AVXVNNI__) || defined(GLM_AVX_VNNI_ONLY)
constexpr int kTokensAtOnce = 6;
#else
constexpr int kTokensAtOnce = 4;
#endif

struct Pair {
  __m256i a, b;
};

// A sum, at once: the compiler would add up many in another order, with more registers than there are.
inline __m256i added(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}
typedef Pair Sums;
typedef Pair Weights;

inline Sums sums_of(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Weights read_weights(const uint8_t* p) {
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
  return added(_mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {eight_dots<kSmall>(sums.a, w.a, x), eight_dots<kSmall>(sums.b, w.b, x)};
}
#define GLM_SIGNED_BYTES 1

// Eight steps of weights of at most 15 fit into sums of 16 bits: kShortSteps of them are added to such first.
#define GLM_SHORT_STEPS 8
inline Sums short_dots(Sums shorts, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {added(_mm256_add_epi16(shorts.a, _mm256_maddubs_epi16(w.a, x))),
          added(_mm256_add_epi16(shorts.b, _mm256_maddubs_epi16(w.b, x)))};
}
inline Sums add_shorts(Sums sums, Sums shorts) {
  __m256i one = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sums.a, _mm256_madd_epi16(shorts.a, one)),
          _mm256_add_epi32(sums.b, _mm256_madd_epi16(shorts.b, one))};
}

// The same for any bytes, in products of 16 bits.
inline __m256i eight_whole(__m256i sums, __m256i w, __m256i x) {
  __m256i even =
      _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
  return added(_mm256_add_epi32(sums, _mm256_add_epi32(even, odd)));
}
inline Sums add_whole(Sums sums, Weights w, int32_t four) {
  __m256i x = _mm256_set1_epi32(four);
  return {eight_whole(sums.a, w.a, x), eight_whole(sums.b, w.b, x)};
}

#endif

struct Totals {
  __m256 a, b;
};
inline Totals read_scales(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
inline Totals times(Totals scale, float x) {
  return {_mm256_mul_ps(scale.a, _mm256_set1_ps(x)), _mm256_mul_ps(scale.b, _mm256_set1_ps(x))};
}
inline void add_scaled(Totals& total, Sums sums, Totals scale) {
  total = {_mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.a), scale.a, total.a),
           _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.b), scale.b, total.b)};
}
inline Floats to_floats(Totals total) { return {(FloatRegister)total.a, (FloatRegister)total.b}; }

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int kTokensAtOnce = 4;  // four registers of sums for each

struct Sums {
  int32x4_t part[4];
};
struct Weights {
  uint8x16_t part[4];
};

inline Sums sums_of(int32_t x) {
  int32x4_t all = vdupq_n_s32(x);
  return {{all, all, all, all}};
}
inline Weights read_weights(const uint8_t* p) {
  return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
}
inline Weights low_halves(Weights w) {
  for (auto& part : w.part) part = vandq_u8(part, vdupq_n_u8(15));
  return w;
}
inline Weights high_halves(Weights w) {
  for (auto& part : w.part) part = vshrq_n_u8(part, 4);
  return w;
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; ++i) sums.part[i] = vusdotq_s32(sums.part[i], w.part[i], x);
  return sums;
}

// Sums of two tokens, two rows of the weight in each register: (rows, tokens).
#define GLM_PAIRS 1
struct Pairs {
  int32x4_t part[8] = {};
};

// Two steps, of which x holds the words of both tokens, `apart` bytes from step to step.
inline void add_two_steps(Pairs& pairs, const Weights& first, const Weights& second, const char* x, int64_t apart) {
  int32x2_t words[2];
  std::memcpy(&words[0], x, 8);
  std::memcpy(&words[1], x + apart, 8);
  int8x16_t both = vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(words[0], words[1]), vzip2_s32(words[0], words[1])));
  for (int i = 0; i < 4; ++i) {
    uint32x4_t a = vreinterpretq_u32_u8(first.part[i]), b = vreinterpretq_u32_u8(second.part[i]);
    pairs.part[2 * i] = vusmmlaq_s32(pairs.part[2 * i], vreinterpretq_u8_u32(vzip1q_u32(a, b)), both);
    pairs.part[2 * i + 1] = vusmmlaq_s32(pairs.part[2 * i + 1], vreinterpretq_u8_u32(vzip2q_u32(a, b)), both);
  }
}

inline void add_pairs(Sums& one, Sums& other, const Pairs& pairs) {
  for (int i = 0; i < 4; ++i) {
    one.part[i] = vaddq_s32(one.part[i], vuzp1q_s32(pairs.part[2 * i], pairs.part[2 * i + 1]));
    other.part[i] = vaddq_s32(other.part[i], vuzp2q_s32(pairs.part[2 * i], pairs.part[2 * i + 1]));
  }
}

#else

// Both sides have signs: weights of 8 bits go in as their distance to 128, and nothing need be taken off.
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; ++i) {
    uint8x16_t part = kSmall ? w.part[i] : veorq_u8(w.part[i], vdupq_n_u8(128));
    sums.part[i] = vdotq_s32(sums.part[i], vreinterpretq_s8_u8(part), x);
  }
  return sums;
}
#define GLM_SIGNED_BYTES 1

inline Sums add_whole(Sums sums, Weights w, int32_t four) { return add_dots<false>(sums, w, four); }
#define GLM_SIGNED_WHOLE 1

#endif

struct Totals {
  float32x4_t part[4];
};
inline Totals read_scales(const uint16_t* p) {
  Totals t;
  for (int i = 0; i < 4; ++i) t.part[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return t;
}
inline Totals times(Totals scale, float x) {
  for (auto& part : scale.part) part = vmulq_n_f32(part, x);
  return scale;
}
inline void add_scaled(Totals& total, Sums sums, Totals scale) {
  for (int i = 0; i < 4; ++i) total.part[i] = vfmaq_f32(total.part[i], vcvtq_f32_s32(sums.part[i]), scale.part[i]);
}
inline Floats to_floats(Totals total) { return read<Floats>(&total); }

#else

constexpr int kTokensAtOnce = 2;
typedef uint8_t Weights __attribute__((vector_size(64)));
typedef Ints Sums;

inline Sums sums_of(int32_t x) { return x - Ints{}; }
inline Weights read_weights(const uint8_t* p) {
  Weights w;
  std::memcpy(&w, p, sizeof w);
  return w;
}
inline Weights low_halves(Weights w) { return w & 15; }
inline Weights high_halves(Weights w) { return w >> 4; }
template <bool kSmall>
inline Sums add_dots(Sums sums, Weights w, int32_t four) {
  Ints words = read<Ints>(&w);
  for (int j = 0; j < 4; ++j) sums += ((words >> (8 * j)) & 255) * (int32_t(uint32_t(four) << (24 - 8 * j)) >> 24);
  return sums;
}

typedef Floats Totals;
inline Totals read_scales(const uint16_t* p) { return load_halves(p); }
inline Totals times(Totals scale, float x) { return scale * x; }
inline void add_scaled(Totals& total, Sums sums, Totals scale) { total += convert<Floats>(sums) * scale; }
inline Floats to_floats(Totals total) { return total; }

#endif

#if !defined(GLM_SIGNED_BYTES)
#define GLM_SIGNED_BYTES 0
#endif
constexpr bool kSignedBytes = GLM_SIGNED_BYTES;  // add_dots takes 128 off weights of 8 bits itself
#if defined(GLM_SIGNED_WHOLE)
constexpr int32_t kWholeOffset = 0;
#else
constexpr int32_t kWholeOffset = 128;  // that add_whole does not take off
#endif

// How many steps of small weights may be added up by short_dots before add_shorts; 0: neither is needed.
#if !defined(GLM_SHORT_STEPS)
#define GLM_SHORT_STEPS 0
inline Sums short_dots(Sums shorts, Weights, int32_t) { return shorts; }
inline Sums add_shorts(Sums sums, Sums) { return sums; }
#endif
constexpr int kShortSteps = GLM_SHORT_STEPS;

// add_dots for weights and numbers of all 256 values: exact.
#if !GLM_SIGNED_BYTES
inline Sums add_whole(Sums sums, Weights w, int32_t four) { return add_dots<false>(sums, w, four); }
#endif

#if !defined(GLM_DOTS_AT)
template <bool kSmall>
inline Sums add_dots_at(Sums sums, Weights w, const char* four) {
  int32_t x;
  std::memcpy(&x, four, sizeof x);
  return add_dots<kSmall>(sums, w, x);
}
#endif

inline Sums add_whole_at(Sums sums, Weights w, const char* four) {
#if defined(GLM_DOTS_AT)
  return add_dots_at<false>(sums, w, four);
#else
  int32_t x;
  std::memcpy(&x, four, sizeof x);
  return add_whole(sums, w, x);
#endif
}

inline Ints to_ints(Sums sums) {
  static_assert(sizeof(Ints) == sizeof sums);
  return read<Ints>(&sums);
}

}  // namespace glm
