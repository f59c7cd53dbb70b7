// Blocks of a cache of float16 or int8 as whole numbers of 16 bits, which AVX-512 VNNI multiplies and adds two at a
// time: attention over them takes half the time of float32. Queries, keys and the weights of a block are scaled to a
// norm of kNorm, values to at most kMost, so that no sum of products leaves 32 bits: |q k| <= |q| |k|. What that rounds
// away is as much as float16 does. Sums are exact, so they do not depend on how queries are grouped.
#pragma once
#include <algorithm>
#include <vector>

#include "vectors.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(GLM_AVX_VNNI_ONLY)
#define GLM_WHOLE_BLOCKS 1

namespace glm {

constexpr float kNorm = 32000, kMost = 8191;
static_assert(double(kNorm) * kMost * 8 * 1.001 < 2147483648.0, "values of 64 slots have a norm of at most 8 kMost");

// Keys (E / 2, 64, 2), pairs of channels; values (32, E, 2), pairs of slots. E is a multiple of 32. A slot's numbers
// are to be multiplied with its scale.
struct WholeBlock {
  const int16_t *keys, *values;
  const float *key_scales, *value_scales;

  WholeBlock(const int16_t* numbers, int64_t e, const float* scales)
      : keys(numbers), values(numbers + 64 * e), key_scales(scales), value_scales(scales + 64) {}
  // One that lies in the cache: scales of keys, of values, then both.
  WholeBlock(const char* head, int64_t e)
      : WholeBlock(reinterpret_cast<const int16_t*>(head) + 256, e, reinterpret_cast<const float*>(head)) {}
};

// Asks for memory that is read next, `each` lines at a time, at least two, while something is computed.
struct NextLines {
  const char *at, *end;
  int64_t each;

  bool there() const { return at < end; }
  void fetch() {
    __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(at + 64, 0, 2);
    for (int64_t i = 2; i < each; ++i) __builtin_prefetch(at + 64 * i, 0, 2);
    at += 64 * each;
  }
};

inline Ints nearest(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }

// The low 16 bits of `first` and of `second` side by side.
inline void store_pairs(int16_t* to, Ints first, Ints second) {
  __m512i high = _mm512_slli_epi32((__m512i)second, 16);
  _mm512_storeu_si512(to, _mm512_mask_blend_epi16(0xaaaaaaaau, (__m512i)first, high));
}

inline void store_pairs(int16_t* to, const int8_t* first, const int8_t* second) {
  __m128i a = _mm_loadu_si128((const __m128i*)first), b = _mm_loadu_si128((const __m128i*)second);
  _mm512_storeu_si512(to, _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b))));
}

// Sixteen whole numbers as 16 bits.
inline void store_shorts(int16_t* to, Ints whole) {
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16((__m512i)whole));
}

// Keys (E, 64) and values (64, E) in int8.
inline void whole_bytes(const int8_t* keys, const int8_t* values, int64_t e, int16_t* to_keys, int16_t* to_values) {
  for (int64_t c = 0; c < e; c += 2)
    for (int64_t s = 0; s < 64; s += kLanes)
      store_pairs(to_keys + (c * 32 + s) * 2, keys + c * 64 + s, keys + (c + 1) * 64 + s);
  for (int64_t s = 0; s < 64; s += 2)
    for (int64_t c = 0; c < e; c += kLanes)
      store_pairs(to_values + (s / 2 * e + c) * 2, values + s * e + c, values + (s + 1) * e + c);
}

// A vector (E) as whole numbers with a norm of kNorm; their scale.
inline float whole_vector(const float* from, int64_t e, int16_t* to) {
  Floats squared = {};
  for (int64_t c = 0; c < e; c += kLanes) squared += load(from + c) * load(from + c);
  float norm = std::sqrt(sum(squared)), factor = norm > 0 ? kNorm / norm : 0.0f;
  for (int64_t c = 0; c < e; c += kLanes) store_shorts(to + c, nearest(load(from + c) * factor));
  return norm / kNorm;  // what is not a number stays visible
}

// Key and value (E) of a slot.
inline void put_whole(char* head, int64_t e, int64_t slot, const float* key, const float* value) {
  auto* scales = reinterpret_cast<float*>(head);
  auto *keys = reinterpret_cast<int16_t*>(head) + 256 + slot * 2, *values = keys - slot * 2 + 64 * e + slot / 2 * e * 2;
  Ints most = {};
  for (int64_t c = 0; c < e; c += kLanes) {
    Ints size = (Ints)load(value + c) & 0x7fffffff;  // sizes are ordered as their bits are, what is not a number above
    most = size > most ? size : most;
  }
  int32_t bits = _mm512_reduce_max_epi32((__m512i)most);
  float top;
  std::memcpy(&top, &bits, sizeof top);
  float factor = top > 0 ? kMost / top : 0.0f;
  for (int64_t c = 0; c < e; c += 2 * kLanes) {
    alignas(64) int16_t numbers[2 * kLanes];
    store_shorts(numbers, nearest(load(value + c) * factor));
    store_shorts(numbers + kLanes, nearest(load(value + c + kLanes) * factor));
    for (int64_t i = 0; i < 2 * kLanes; ++i) values[(c + i) * 2 + slot % 2] = numbers[i];
  }
  scales[64 + slot] = top / kMost;
  static thread_local std::vector<int16_t> whole;
  whole.resize(size_t(e));
  scales[slot] = whole_vector(key, e, whole.data());
  for (int64_t c = 0; c < e; c += 2) std::memcpy(keys + c * 64, whole.data() + c, 2 * sizeof(int16_t));
}

inline void get_whole(const WholeBlock& block, int64_t e, int64_t slot, float* key, float* value) {
  for (int64_t c = 0; c < e; ++c) {
    key[c] = float(block.keys[(c / 2 * 64 + slot) * 2 + c % 2]) * block.key_scales[slot];
    value[c] = float(block.values[(slot / 2 * e + c) * 2 + slot % 2]) * block.value_scales[slot];
  }
}

// At once: the compiler would move sums from register to register.
inline void add_products(__m512i& sum, __m512i pairs, __m512i both) {
  sum = _mm512_dpwssd_epi32(sum, pairs, both);
  asm("" : "+v"(sum));
}

// Sums of both products of each pair, for kRows rows of `pairs` (32 bits each, `apart` pairs from row to row) and two
// vectors of pairs, which are `step` pairs from pair to pair.
template <int kRows, bool kFetch>
inline __attribute__((always_inline)) void add_pairs(const int16_t* rows, int64_t apart, const int16_t* vectors,
                                                     int64_t step, int64_t count, NextLines& next,
                                                     __m512i (&sums)[kRows][2]) {
  for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_si512();
  for (int64_t p = 0; p < count; ++p) {
    if (kFetch) next.fetch();
    __m512i first = _mm512_loadu_si512(vectors + p * step * 2),
            second = _mm512_loadu_si512(vectors + p * step * 2 + 32);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, rows + (i * apart + p) * 2, sizeof pair);
      __m512i both = _mm512_set1_epi32(pair);
      add_products(sums[i][0], first, both);
      add_products(sums[i][1], second, both);
    }
  }
}

// out (kRows, 64): scores of queries (kRows, E) with `count` slots, but for the queries' scales.
template <int kRows, bool kFetch>
__attribute__((noinline)) void whole_scores(const int16_t* queries, int64_t e, const WholeBlock& block, int64_t count,
                                            NextLines& next, float* out) {
  for (int64_t s = 0; s < count; s += 2 * kLanes) {
    __m512i sums[kRows][2];
    add_pairs<kRows, kFetch>(queries, e / 2, block.keys + s * 2, 64, e / 2, next, sums);
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < 2; ++j)
        store(out + i * 64 + s + j * kLanes,
              (Floats)_mm512_cvtepi32_ps(sums[i][j]) * load(block.key_scales + s + j * kLanes));
  }
}

// mixed (kRows, E) += scales times weights (kRows, 64) times values, of `count` slots.
template <int kRows, bool kFetch>
__attribute__((noinline)) void whole_mix(const int16_t* weights, const float* scales, int64_t e,
                                         const WholeBlock& block, int64_t count, NextLines& next, float* mixed) {
  for (int64_t c = 0; c < e; c += 2 * kLanes) {
    __m512i sums[kRows][2];
    add_pairs<kRows, kFetch>(weights, 32, block.values + c * 2, e, (count + 1) / 2, next, sums);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < 2; ++j) {
        float* to = mixed + i * e + c + j * kLanes;
        store(to, load(to) + (Floats)_mm512_cvtepi32_ps(sums[i][j]) * scales[i]);
      }
    }
  }
}

// 2^x within 3e-6 of itself.
inline Floats power_of_two(Floats x) {
  __m512 n = _mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
  Floats r = x - (Floats)n, p = splat(9.58285e-3f);
  p = p * r + 5.590643e-2f;
  p = p * r + 2.4024099e-1f;
  p = p * r + 6.9312419e-1f;
  p = p * r + 1.0f;
  return (Floats)_mm512_scalef_ps((__m512)p, n);
}

// Scores (64) times `scale` become weights e^(score - top) of the first `seen` slots, times the values' scales. What
// they were before that is added to `total` (16), `squared` (16) is what their squares add up to. kAll: all 64 are
// seen.
template <bool kAll>
inline __attribute__((always_inline)) void whole_weights(float* scores, float scale, float top, int64_t seen,
                                                         const WholeBlock& block, float* total, float* squared) {
  constexpr float kLog2 = 1.44269504088896341f;
  Floats all = load(total), squares = {};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    Floats weight = power_of_two(load(scores + j * kLanes) * (scale * kLog2) - top * kLog2);
    Floats scales = load(block.value_scales + j * kLanes);
    if (!kAll) {  // what is not there has no scale either
      auto there = __mmask16((uint32_t(1) << std::clamp<int64_t>(seen - j * kLanes, 0, kLanes)) - 1);
      weight = (Floats)_mm512_maskz_mov_ps(there, (__m512)weight);
      scales = (Floats)_mm512_maskz_mov_ps(there, (__m512)scales);
    }
    all += weight;
    weight *= scales;
    squares += weight * weight;
    store(scores + j * kLanes, weight);
  }
  store(total, all);
  store(squared, squares);
}

// Weights (64), whose squares add up to `squared`, as whole numbers; what brings them back.
inline float round_weights(const float* weights, float squared, int16_t* to) {
  bool some = squared > 1e-30f;  // smaller ones are nothing, and what is not a number stays visible
  float factor = some ? kNorm * _mm_cvtss_f32(_mm_rsqrt14_ss(_mm_setzero_ps(), _mm_set_ss(squared))) : 0.0f;
  for (int j = 0; j < 4; ++j) {
    Ints whole = nearest(load(weights + j * kLanes) * factor);
    store_shorts(to + j * kLanes, whole);
  }
  return some ? 1.0f / factor : squared;
}

}  // namespace glm

#endif
