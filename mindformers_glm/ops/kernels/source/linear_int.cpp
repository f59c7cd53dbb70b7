// Integer weights times activations rounded to 8 bits, with one scale for every 16 or 32 of them, in integer
// arithmetic. Weights are read in panels (packing.h), the same for one row of x and for many; what a row of x gets does
// not depend on the rows beside it.
#include <algorithm>
#include <array>
#include <utility>

#include "dots.h"
#include "linear.h"
#include "packing.h"
#include "parallel.h"
#include "ranges.h"

namespace glm {
namespace {

constexpr int64_t kAhead = 2048;  // bytes by which reading runs ahead of use

// Rows of x as int8 (m, columns), the scale of each `span` of them (m, groups), and what takes the offset of the
// weights away: - offset * their sum.
struct Rounded {
  int64_t columns, span, groups;
  int8_t* bytes;
  float* scales;
  int32_t* sums;
};

inline void round_span(const float* x, int64_t span, int8_t* out, float* scale, int32_t* sum, int32_t offset) {
  Floats first = load(x), second = span == kLanes ? Floats{} : load(x + kLanes);
  Floats size = larger(first < 0 ? -first : first, second < 0 ? -second : second);
  float top = highest(size);
  float check = glm::sum(first * 0.0f) + glm::sum(second * 0.0f);  // a maximum forgets what is not a number
  if (!(check == 0.0f)) top = NAN;
  float inverse = top > 0 ? 127.0f / top : 0.0f;
  int32_t total = 0;
  auto sixteen = [&](Floats v, int8_t* to) {
    constexpr float kWhole =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, to even where it is halfway
    Floats shifted = v * inverse + kWhole;
    Ints whole;
    std::memcpy(&whole, &shifted, sizeof whole);
    whole -= 0x4b400000;
    typedef int8_t Bytes __attribute__((vector_size(16)));
    Bytes bytes = __builtin_convertvector(whole, Bytes);
    std::memcpy(to, &bytes, sizeof bytes);
#if defined(__AVX512F__)
    total += _mm512_reduce_add_epi32((__m512i)whole);
#else
    for (int i = 0; i < kLanes; ++i) total += whole[i];
#endif
  };
  sixteen(first, out);
  if (span > kLanes) sixteen(second, out + kLanes);
  *scale = top / 127.0f;
  *sum = -offset * total;
}

Rounded round_rows(const float* x, int64_t m, const Linear& w, Workspace& space) {
  Rounded r;
  r.columns = w.columns;
  r.span = w.group % 32 == 0 ? 32 : 16;
  r.groups = w.columns / r.span;
  r.bytes = reinterpret_cast<int8_t*>(space.bytes.take(m * r.columns / 4 + kLanes));
  r.scales = space.scales.take(m * r.groups);
  r.sums = reinterpret_cast<int32_t*>(space.sums.take(m * r.groups));
  int32_t offset = w.kind == kInt4 ? 8 : kSignedBytes ? 0 : 128;
  parallel_ranges(m, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t g = 0; g < r.groups; ++g) {
        int64_t at = t * r.columns + g * r.span, to = t * r.groups + g;
        round_span(x + at, r.span, r.bytes + at, r.scales + to, r.sums + to, offset);
      }
    }
  });
  return r;
}

// A panel of `rows` rows: `share` spans of x to a group of the weight.
struct Panel {
  const uint8_t* weight;
  const uint16_t* scale;
  int64_t rows, share;
};

inline Floats panel_scales(const uint16_t* scale, int64_t rows) {
  if (rows == kLanes) return load_halves(scale);
  uint16_t all[kLanes] = {};
  std::memcpy(all, scale, size_t(rows) * 2);
  return load_halves(all);
}

template <int kTokens, int kSpan, bool kFour>
void tile(const Rounded& r, int64_t t, const Panel& panel, float* out, int64_t ldout) {
  Floats total[kTokens] = {};
  const uint8_t* at = panel.weight;
  int64_t rows = panel.rows, step = rows * 4;
  Floats scale = {};
  for (int64_t g = 0, in_group = 0; g < r.groups; ++g) {
    if (in_group == 0) scale = panel_scales(panel.scale + g / panel.share * rows, rows);
    in_group = in_group + 1 == panel.share ? 0 : in_group + 1;
    Sums whole[kTokens];
    const int8_t* four[kTokens];
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) {
      whole[i] = sums_of(r.sums[(t + i) * r.groups + g]);
      four[i] = r.bytes + (t + i) * r.columns + g * kSpan;
    }
    auto multiply = [&](Weights weights, int place) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kTokens; ++i) {
        int32_t x;
        std::memcpy(&x, four[i] + place, sizeof x);
        whole[i] = add_dots<kFour>(whole[i], weights, x);
      }
    };
#pragma GCC unroll 8
    for (int q = 0; q < kSpan / (kFour ? 8 : 4); ++q, at += step) {
      __builtin_prefetch(at + kAhead);
      Weights weights = read_weights(at, rows);
      if (kFour) {
        multiply(low_halves(weights), q * 8);
        multiply(high_halves(weights), q * 8 + 4);
      } else {
        multiply(weights, q * 4);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) total[i] += to_floats(whole[i]) * (scale * r.scales[(t + i) * r.groups + g]);
  }
  for (int i = 0; i < kTokens; ++i) {
    if (rows == kLanes) {
      store(out + i * ldout, total[i]);
    } else {
      store_some(out + i * ldout, total[i], rows);
    }
  }
}

typedef void (*Tile)(const Rounded& r, int64_t t, const Panel& panel, float* out, int64_t ldout);

template <int kSpan, bool kFour, int... kBefore>
constexpr std::array<Tile, kTokensAtOnce> tiles(std::integer_sequence<int, kBefore...>) {
  return {tile<kBefore + 1, kSpan, kFour>...};
}

// Tiles for 1, 2, ... rows of x.
const Tile* tiles_for(const Linear& w, int64_t span) {
  constexpr auto kCounts = std::make_integer_sequence<int, kTokensAtOnce>();
  static constexpr std::array<Tile, kTokensAtOnce> kAll[] = {tiles<16, false>(kCounts), tiles<32, false>(kCounts),
                                                             tiles<16, true>(kCounts), tiles<32, true>(kCounts)};
  return kAll[(w.kind == kInt4 ? 2 : 0) + (span == 32 ? 1 : 0)].data();
}

// found (m, end - begin) = x W^T for rows [begin, end) of W; begin is where a panel begins.
void some_rows(const Rounded& r, int64_t m, const Linear& w, int64_t begin, int64_t end, float* found, int64_t width) {
  static thread_local PackedPanel packed;
  const Tile* all = tiles_for(w, r.span);
  int64_t passes = (m + kTokensAtOnce - 1) / kTokensAtOnce;
  for (int64_t n = begin; n < end; n += kPanel) {
    Panel panel = {nullptr, nullptr, std::min(kPanel, w.rows - n), w.group / r.span};
    if (w.layout == kPanels) {
      panel.weight = static_cast<const uint8_t*>(w.weight) + n * packed_bytes(w);
      panel.scale = w.scale + n * (w.columns / w.group);
    } else {
      packed.fill(w, n);
      panel.weight = packed.weight.data();
      panel.scale = packed.scale.data();
    }
    for (int64_t pass = 0; pass < passes; ++pass) {
      int64_t t = m * pass / passes, count = m * (pass + 1) / passes - t;
      all[count - 1](r, t, panel, found + t * width + n - begin, width);
    }
  }
}

}  // namespace

void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish how, Workspace& space) {
  Rounded r = round_rows(x, m, w, space);
  by_ranges(m, w, y, how, [&](int64_t begin, int64_t end, float* found, int64_t width) {
    some_rows(r, m, w, begin, end, found, width);
  });
}

}  // namespace glm
