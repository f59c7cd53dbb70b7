// Integer weights times activations rounded to 8 bits, with one scale for every 32 of them, in integer arithmetic.
#include <algorithm>

#include "linear.h"
#include "panels.h"
#include "parallel.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

namespace glm {
namespace {

constexpr int64_t kGroup = 32;   // activations that share a scale
constexpr int64_t kFewRows = 5;  // up to so many rows of x a weight is read row by row
constexpr int64_t kPanel = 16;   // weights beside each other in a panel
constexpr int kTile = 12;        // rows of x that one pass over a panel serves
constexpr int64_t kTaskBytes = 1 << 17;
constexpr int64_t kAhead = 4096;  // bytes by which reading runs ahead of use: rows are too short for the processor's own

// Rows of x as int8 (m, padded), padded to whole steps of 128 with 0, their scales (m, groups), and what takes the
// offset of the weights away: for each 4 neighbours (lanes) or each group, - offset * their sum.
struct Rounded {
  int64_t padded, groups;
  int8_t* bytes;
  float* scales;
  int32_t* lanes;
  int32_t* sums;
};

Rounded round_rows(const float* x, int64_t m, int64_t k, int32_t offset, Workspace& space) {
  Rounded r;
  r.padded = (k + 127) / 128 * 128;
  r.groups = r.padded / kGroup;
  r.bytes = reinterpret_cast<int8_t*>(space.bytes.take(m * r.padded / 4));
  r.scales = space.scales.take(m * r.groups * 2);
  r.sums = reinterpret_cast<int32_t*>(r.scales + m * r.groups);
  r.lanes = reinterpret_cast<int32_t*>(space.lanes.take(m * r.padded / 4));
  parallel_ranges(m, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x + t * k;
      int8_t* out = r.bytes + t * r.padded;
      for (int64_t g = 0; g < r.groups; ++g) {
        int64_t at = g * kGroup, left = std::min(kGroup, k - at);
        __m512 a = _mm512_setzero_ps(), b = a;
        if (left == kGroup) {
          a = _mm512_loadu_ps(row + at);
          b = _mm512_loadu_ps(row + at + 16);
        } else if (left > 0) {
          a = (__m512)load_some(row + at, std::min<int64_t>(left, 15));
          if (left > 15) {
            float edge[kGroup] = {};
            std::copy(row + at, row + at + left, edge);
            a = _mm512_loadu_ps(edge);
            b = _mm512_loadu_ps(edge + 16);
          }
        }
        float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        if (_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0) top = NAN;  // a maximum forgets what is not a number
        __m512 inverse = _mm512_set1_ps(top > 0 ? 127.0f / top : 0.0f);
        __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), high = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        _mm_storeu_si128((__m128i*)(out + at), _mm512_cvtsepi32_epi8(low));
        _mm_storeu_si128((__m128i*)(out + at + 16), _mm512_cvtsepi32_epi8(high));
        r.scales[t * r.groups + g] = top / 127.0f;
        r.sums[t * r.groups + g] = -offset * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
      }
      __m512i minus = _mm512_set1_epi32(-offset), ones = _mm512_set1_epi8(1);
      for (int64_t i = 0; i < r.padded; i += 64) {
        __m512i four = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_loadu_si512(out + i));
        _mm512_storeu_si512(r.lanes + (t * r.padded + i) / 4, _mm512_mullo_epi32(four, minus));
      }
    }
  });
  return r;
}

// Scales of 16 groups of 32, whatever the group of the weight; those from `left` on are 0.
inline __m512 weight_scales(const uint16_t* scale, int64_t group32, int64_t left, int group) {
  int64_t share = group / kGroup, first = group32 / share, count = std::max<int64_t>(0, (left + share - 1) / share);
  __mmask16 known = count >= 16 ? 0xffff : __mmask16((1u << count) - 1);
  __m512 found = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(known, scale + first));
  if (share == 1) return found;
  __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_permutexvar_ps(_mm512_srli_epi32(lane, share == 2 ? 1 : 2), found);
}

inline __m512 two_scales(__m512 sixteen, int step) {  // scales 2 step and 2 step + 1, eight times each
  __m512i place = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  return _mm512_permutexvar_ps(_mm512_add_epi32(place, _mm512_set1_epi32(2 * step)), sixteen);
}

template <int kRows>
inline void int8_rows(const Rounded& r, int64_t t, const Linear& w, int64_t n, float* out) {
  int64_t k = w.columns, groups = k / kGroup;
  const int8_t* bytes = r.bytes + t * r.padded;
  const int32_t* lanes = r.lanes + t * r.padded / 4;
  const __m512i flip = _mm512_set1_epi8(char(0x80));
  __m512 total[kRows];
  const int8_t* data[kRows];
  const uint16_t* scale[kRows];
  for (int i = 0; i < kRows; ++i) {
    total[i] = _mm512_setzero_ps();
    data[i] = static_cast<const int8_t*>(w.weight) + (n + i) * k;
    scale[i] = w.scale + (n + i) * (k / w.group);
  }
  for (int64_t g = 0; g < groups; g += 16) {
    int64_t left = groups - g;
    __m512 activation = _mm512_maskz_loadu_ps(left >= 16 ? 0xffff : __mmask16((1u << left) - 1),
                                              r.scales + t * r.groups + g);
    __m512 product[kRows];
    for (int i = 0; i < kRows; ++i)
      product[i] = _mm512_mul_ps(weight_scales(scale[i], g, left, w.group), activation);
    int steps = int(std::min<int64_t>(8, (left + 1) / 2));
    auto step = [&](int s, bool whole) __attribute__((always_inline)) {
      int64_t at = g * kGroup + s * 64;
      __m512i start = _mm512_loadu_si512(lanes + at / 4), x = _mm512_loadu_si512(bytes + at);
      for (int i = 0; i < kRows; ++i) {
        _mm_prefetch(data[i] + at + kAhead, _MM_HINT_T0);
        __m512i raw = whole ? _mm512_loadu_si512(data[i] + at) : _mm512_maskz_loadu_epi8(0xffffffffull, data[i] + at);
        __m512i found = _mm512_dpbusd_epi32(start, _mm512_xor_si512(raw, flip), x);
        total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(found), two_scales(product[i], s), total[i]);
      }
    };
    if (left >= 16) {
#pragma GCC unroll 8
      for (int s = 0; s < 8; ++s) step(s, true);
    } else {
      for (int s = 0; s < steps; ++s) step(s, left - 2 * s >= 2);
    }
  }
  for (int i = 0; i < kRows; ++i) out[i] = _mm512_reduce_add_ps(total[i]);
}

template <int kRows>
inline void int4_rows(const Rounded& r, int64_t t, const Linear& w, int64_t n, float* out) {
  int64_t k = w.columns, groups = k / kGroup, stride = r.padded / 2;
  const int8_t* bytes = r.bytes + t * r.padded;
  const int32_t* lanes = r.lanes + t * r.padded / 4;
  const __m512i low_half = _mm512_set1_epi8(15);
  __m512 total[kRows];
  const uint8_t* data[kRows];
  const uint16_t* scale[kRows];
  for (int i = 0; i < kRows; ++i) {
    total[i] = _mm512_setzero_ps();
    data[i] = static_cast<const uint8_t*>(w.weight) + (n + i) * stride;
    scale[i] = w.scale + (n + i) * (k / w.group);
  }
  for (int64_t g = 0; g < groups; g += 16) {
    int64_t left = groups - g;
    __m512 activation = _mm512_maskz_loadu_ps(left >= 16 ? 0xffff : __mmask16((1u << left) - 1),
                                              r.scales + t * r.groups + g);
    __m512 product[kRows];
    for (int i = 0; i < kRows; ++i)
      product[i] = _mm512_mul_ps(weight_scales(scale[i], g, left, w.group), activation);
    auto step = [&](int s) __attribute__((always_inline)) {  // 128 columns
      int64_t at = g * kGroup + s * 128;
      __m512i start0 = _mm512_loadu_si512(lanes + at / 4), start1 = _mm512_loadu_si512(lanes + at / 4 + 16);
      __m512i x0 = _mm512_loadu_si512(bytes + at), x1 = _mm512_loadu_si512(bytes + at + 64);
      for (int i = 0; i < kRows; ++i) {
        _mm_prefetch((const char*)data[i] + at / 2 + kAhead, _MM_HINT_T0);
        __m512i pairs = _mm512_loadu_si512(data[i] + at / 2);
        __m512i found0 = _mm512_dpbusd_epi32(start0, _mm512_and_si512(pairs, low_half), x0);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low_half);
        __m512i found1 = _mm512_dpbusd_epi32(start1, high, x1);
        total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(found0), two_scales(product[i], 2 * s), total[i]);
        total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(found1), two_scales(product[i], 2 * s + 1), total[i]);
      }
    };
    if (left >= 16) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) step(s);
    } else {
      for (int s = 0; s < int((left + 3) / 4); ++s) step(s);
    }
  }
  for (int i = 0; i < kRows; ++i) out[i] = _mm512_reduce_add_ps(total[i]);
}

void row_by_row(const Rounded& r, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  int64_t n = begin;
  for (; n + 2 <= end; n += 2)
    for (int64_t t = 0; t < m; ++t)
      w.kind == kInt8 ? int8_rows<2>(r, t, w, n, out + t * ldout + n - begin)
                      : int4_rows<2>(r, t, w, n, out + t * ldout + n - begin);
  for (; n < end; ++n)
    for (int64_t t = 0; t < m; ++t)
      w.kind == kInt8 ? int8_rows<1>(r, t, w, n, out + t * ldout + n - begin)
                      : int4_rows<1>(r, t, w, n, out + t * ldout + n - begin);
}

// Sixteen rows of a weight in the order in which tokens meet them: (padded / 4, 16, 4) bytes, offset to be unsigned,
// and scales (groups, 16). Rows and columns beyond the weight have scale 0.
struct Panel {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;

  void fill(const Linear& w, int64_t n, int64_t padded) {
    int64_t groups = w.columns / kGroup, rows = std::min(kPanel, w.rows - n);
    bytes.resize(size_t(padded * kPanel));
    scales.resize(size_t((padded / kGroup + 15) / 16 * 16 * kPanel));
    w.kind == kInt8 ? fill_int8(w, n, rows) : fill_int4(w, n, rows, padded / 2);
    for (int64_t g = 0; g < padded / kGroup; g += 16) {
      Floats block[kPanel];
      for (int64_t i = 0; i < kPanel; ++i) {
        const uint16_t* scale = w.scale + (n + std::min(i, rows - 1)) * (w.columns / w.group);
        block[i] = i < rows ? (Floats)weight_scales(scale, g, groups - g, w.group) : Floats{};
      }
      transpose(block);
      for (int64_t j = 0; j < 16; ++j) store(scales.data() + (g + j) * kPanel, block[j]);
    }
  }

 private:
  void fill_int8(const Linear& w, int64_t n, int64_t rows) {
    const int8_t* from = static_cast<const int8_t*>(w.weight) + n * w.columns;
    const __m512i flip = _mm512_set1_epi8(char(0x80));
    for (int64_t at = 0; at < w.columns; at += 64) {
      __mmask64 known = w.columns - at >= 64 ? ~0ull : (1ull << (w.columns - at)) - 1;
      Floats block[kPanel] = {};
      for (int64_t i = 0; i < rows; ++i) {
        _mm_prefetch(from + (i + kPanel) * w.columns + at, _MM_HINT_T1);  // the next panel
        block[i] = (Floats)_mm512_xor_si512(_mm512_maskz_loadu_epi8(known, from + i * w.columns + at), flip);
      }
      put(block, at);
    }
  }

  void fill_int4(const Linear& w, int64_t n, int64_t rows, int64_t stride) {
    const uint8_t* from = static_cast<const uint8_t*>(w.weight) + n * stride;
    const __m512i low_half = _mm512_set1_epi8(15);
    for (int64_t at = 0; at < stride; at += 64) {
      Floats low[kPanel] = {}, high[kPanel] = {};
      for (int64_t i = 0; i < rows; ++i) {
        _mm_prefetch(from + (i + kPanel) * stride + at, _MM_HINT_T1);
        __m512i pairs = _mm512_loadu_si512(from + i * stride + at);
        low[i] = (Floats)_mm512_and_si512(pairs, low_half);
        high[i] = (Floats)_mm512_and_si512(_mm512_srli_epi16(pairs, 4), low_half);
      }
      put(low, 2 * at);
      put(high, 2 * at + 64);
    }
  }

  // 64 columns from `at` on of all rows: every four of a row beside those of the others.
  void put(Floats (&block)[kPanel], int64_t at) {
    transpose(block);
    for (int64_t j = 0; j < 16; ++j) std::memcpy(bytes.data() + (at + 4 * j) * kPanel, &block[j], sizeof block[j]);
  }
};

template <int kTokens>
void tile(const Rounded& r, int64_t t, const Panel& panel, int64_t groups, float* out, int64_t ldout, __mmask16 mask) {
  __m512 total[kTokens];
  for (int i = 0; i < kTokens; ++i) total[i] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
    __m512i whole[kTokens];
    for (int i = 0; i < kTokens; ++i) whole[i] = _mm512_set1_epi32(r.sums[(t + i) * r.groups + g]);
    const uint8_t* column = panel.bytes.data() + g * kGroup * kPanel;
#pragma GCC unroll 8
    for (int q = 0; q < kGroup / 4; ++q) {
      __m512i weights = _mm512_loadu_si512(column + q * 64);
      for (int i = 0; i < kTokens; ++i) {
        int32_t four;
        std::memcpy(&four, r.bytes + (t + i) * r.padded + g * kGroup + q * 4, 4);
        whole[i] = _mm512_dpbusd_epi32(whole[i], weights, _mm512_set1_epi32(four));
      }
    }
    __m512 scale = _mm512_loadu_ps(panel.scales.data() + g * kPanel);
    for (int i = 0; i < kTokens; ++i) {
      __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(r.scales[(t + i) * r.groups + g]));
      total[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole[i]), both, total[i]);
    }
  }
  for (int i = 0; i < kTokens; ++i) _mm512_mask_storeu_ps(out + i * ldout, mask, total[i]);
}

void many_tokens(const Rounded& r, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  static thread_local Panel panel;
  for (int64_t n = begin; n < end; n += kPanel) {
    panel.fill(w, n, r.padded);
    auto mask = end - n >= kPanel ? __mmask16(0xffff) : __mmask16((1u << (end - n)) - 1);
    float* here = out + n - begin;
    int64_t t = 0, groups = w.columns / kGroup;
    for (; t + kTile <= m; t += kTile) tile<kTile>(r, t, panel, groups, here + t * ldout, ldout, mask);
    for (; t + 8 <= m; t += 8) tile<8>(r, t, panel, groups, here + t * ldout, ldout, mask);
    for (; t + 4 <= m; t += 4) tile<4>(r, t, panel, groups, here + t * ldout, ldout, mask);
    for (; t < m; ++t) tile<1>(r, t, panel, groups, here + t * ldout, ldout, mask);
  }
}

// What is done to the sums of a range of rows while they are warm.
void finish(const Linear& w, const float* found, int64_t width, int64_t m, int64_t begin, float* y, Finish how) {
  int64_t n = how == kSwiglu ? w.rows / 2 : w.rows, count = how == kSwiglu ? width / 2 : width;
  static thread_local std::vector<float> bias;
  bias.assign(size_t(width), 0.0f);
  if (w.bias != nullptr) {
    int64_t size = w.bias_kind == kFloat32 ? 4 : 2;
    const char* from = static_cast<const char*>(w.bias);
    read_numbers(from + begin * size, w.bias_kind, count, bias.data());
    if (how == kSwiglu) read_numbers(from + (n + begin) * size, w.bias_kind, count, bias.data() + count);
  }
  for (int64_t t = 0; t < m; ++t) {
    const float* row = found + t * width;
    float* out = y + t * n + begin;
    for (int64_t i = 0; i < count; i += kLanes) {
      int64_t left = std::min<int64_t>(kLanes, count - i);
      __mmask16 mask = left == kLanes ? 0xffff : __mmask16((1u << left) - 1);
      auto read = [&](const float* p) { return _mm512_maskz_loadu_ps(mask, p); };
      __m512 v = _mm512_add_ps(read(row + i), read(bias.data() + i));
      if (how == kSwiglu) {
        __m512 up = _mm512_add_ps(read(row + count + i), read(bias.data() + count + i));
        v = _mm512_mul_ps((__m512)silu((Floats)v), up);
      }
      if (how == kAdd) v = _mm512_add_ps(v, read(out + i));
      _mm512_mask_storeu_ps(out + i, mask, v);
    }
  }
}

}  // namespace

bool integers_are_fast() { return true; }

void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish how, Workspace& space) {
  Rounded r = round_rows(x, m, w.columns, w.kind == kInt8 ? 128 : 8, space);
  bool few = m <= kFewRows;
  int64_t bytes = r.padded / (w.kind == kInt8 ? 1 : 2), n = how == kSwiglu ? w.rows / 2 : w.rows;
  int64_t grain = std::max<int64_t>(few ? kTaskBytes / bytes : 64, 16) / 16 * 16;
  auto rows = few ? row_by_row : many_tokens;
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> found;
    int64_t count = end - begin, width = how == kSwiglu ? 2 * count : count;
    found.resize(size_t(m * width));
    rows(r, m, w, begin, end, found.data(), width);
    if (how == kSwiglu) rows(r, m, w, n + begin, n + end, found.data() + count, width);
    finish(w, found.data(), width, m, begin, y, how);
  });
}

}  // namespace glm

#else

namespace glm {

bool integers_are_fast() { return false; }
void linear_integers(const float*, int64_t, const Linear&, float*, Finish, Workspace&) {}

}  // namespace glm

#endif
