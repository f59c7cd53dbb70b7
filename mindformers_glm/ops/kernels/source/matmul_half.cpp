// The matmul in float16: twice as many numbers in a register, sums of 32 products widened to float32.
#include "panels.h"

#if defined(__AVX512BW__) && defined(__x86_64__) && !defined(__clang__) && __GNUC__ >= 12
#define GLM_HALF 1
#include <cpuid.h>
#endif

namespace glm {

#if GLM_HALF

#pragma GCC push_options
#pragma GCC diagnostic ignored "-Wuninitialized"  // inside the compiler's own headers
#pragma GCC target("avx512fp16")

namespace {

constexpr int kRows = 14, kWide = 2, kPerRegister = 32, kColumns = kWide * kPerRegister, kChunk = 32, kAhead = 16;

inline __m256i to_halves(Floats numbers) {
  return _mm512_cvtps_ph((__m512)numbers, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// A number of a row stands twice in 32 bits, so that reading it into a whole register costs nothing.
void pack_rows(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale, void* out) {
  pack<kRows>(v, first, count, p, depth, scale, [=](int64_t place, Floats numbers, int64_t some) {
    __m512i wide = _mm512_cvtepu16_epi32(to_halves(numbers));
    Floats twice = (Floats)_mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    if (some == kLanes) {
      store((float*)out + place, twice);
    } else {
      store_some((float*)out + place, twice, some);
    }
  });
}

void pack_columns(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale, void* out) {
  pack<kColumns>(v, first, count, p, depth, scale, [=](int64_t place, Floats numbers, int64_t) {
    _mm256_storeu_si256((__m256i*)((uint16_t*)out + place), to_halves(numbers));
  });
}

void multiply(int64_t depth, const void* a_panel, const void* b_panel, float* tile) {
  const int32_t* a = (const int32_t*)a_panel;
  const uint16_t* b = (const uint16_t*)b_panel;
  for (int64_t begin = 0; begin < depth; begin += kChunk) {
    int64_t end = depth - begin < kChunk ? depth : begin + kChunk;
    __m512h sums[kRows][kWide];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_setzero_ph();
    }
    for (int64_t p = begin; p < end; ++p, a += kRows, b += kColumns) {
      for (int j = 0; j < kWide; ++j) __builtin_prefetch(b + kAhead * kColumns + j * kPerRegister);
      __builtin_prefetch(a + kAhead * kRows);
      __m512h right[kWide];
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) right[j] = _mm512_loadu_ph(b + j * kPerRegister);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        __m512h left = (__m512h)_mm512_set1_epi32(a[i]);
#pragma GCC unroll 4
        for (int j = 0; j < kWide; ++j) sums[i][j] = _mm512_fmadd_ph(left, right[j], sums[i][j]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) {
        __m512i bits = (__m512i)sums[i][j];
        float* out = tile + i * kColumns + j * kPerRegister;
        __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(bits));
        __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1));
        if (begin > 0) {
          low = _mm512_add_ps(low, _mm512_load_ps(out));
          high = _mm512_add_ps(high, _mm512_load_ps(out + kLanes));
        }
        _mm512_store_ps(out, low);
        _mm512_store_ps(out + kLanes, high);
      }
    }
  }
}

const MatmulForm form = {kRows, kColumns, 4, 2, pack_rows, pack_columns, multiply};

bool processor_has_it() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
}

}  // namespace

#pragma GCC pop_options

const MatmulForm* half_form() {
  static const bool there = processor_has_it();
  return there ? &form : nullptr;
}

#else

const MatmulForm* half_form() { return nullptr; }

#endif

}  // namespace glm
