// W8A8: weights and activations of 8 bits, integer sums over a whole row, one scale at the end. Nothing is
// rounded but x, once, so that every kind of CPU finds the same numbers as the formula (ops/w8a8.py).
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
constexpr int32_t kOffset = 128;  // of weights in panels

// Rows of x as int8 (m, columns), of each row what takes the offset of the weights away, and its factor: 1 or its own
// scale; not a number where x holds such.
struct Whole {
  int64_t columns;
  int8_t* bytes;
  int32_t* sums;
  float* factors;
};

inline Ints rounded(Floats v) {  // of numbers between -2^21 and 2^21, to even where they are halfway
  Floats shifted = v + 12582912.0f;
  Ints whole;
  std::memcpy(&whole, &shifted, sizeof whole);
  return whole - 0x4b400000;
}

float largest(const float* x, int64_t count) {
  Floats top = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats v = load_some(x + i, std::min<int64_t>(kLanes, count - i));
    top = larger(top, v < 0 ? -v : v);
  }
  return highest(top);
}

void round_row(const float* x, const Linear& w, int8_t* out, int32_t* sum, float* factor) {
  bool is_static = w.input_scale > 0;
  float top = is_static ? 0 : largest(x, w.columns), scale = is_static ? w.input_scale : top / 127.0f;
  Floats divisor = splat(scale > 0 ? scale : 1), offset = splat(is_static ? w.input_offset : 0), check = {};
  Ints total = {};
  for (int64_t i = 0; i < w.columns; i += kLanes) {
    int64_t left = std::min<int64_t>(kLanes, w.columns - i);
    Floats v = load_some(x + i, left);
    check += v * 0.0f;
    v = v / divisor + offset;
    v = v > -128.0f ? v : splat(-128.0f);
    v = v < 127.0f ? v : splat(127.0f);
    Ints whole = rounded(v);
    typedef int8_t Bytes __attribute__((vector_size(16)));
    Bytes bytes = __builtin_convertvector(whole, Bytes);
    std::memcpy(out + i, &bytes, size_t(left));
    for (int64_t j = left; j < kLanes; ++j) whole[j] = 0;
    total += whole;
  }
  int32_t all = 0;
  for (int i = 0; i < kLanes; ++i) all += total[i];
  *sum = -kOffset * all;
  *factor = (is_static ? 1.0f : scale) + glm::sum(check);
}

Whole round_rows(const float* x, int64_t m, const Linear& w, Workspace& space) {
  Whole r;
  r.columns = w.columns;
  r.bytes = reinterpret_cast<int8_t*>(space.bytes.take(m * r.columns / 4 + kLanes));
  r.factors = space.scales.take(m);
  r.sums = reinterpret_cast<int32_t*>(space.sums.take(m));
  parallel_ranges(m, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      round_row(x + t * r.columns, w, r.bytes + t * r.columns, r.sums + t, r.factors + t);
  });
  return r;
}

// `rows` rows of a weight in a panel, with their scales and what is added to their sums.
struct Panel {
  const uint8_t* weight;
  int64_t rows;
  Floats scale;
  Ints bias;
};

template <int kTokens>
void tile(const Whole& r, int64_t t, const Panel& panel, float* out, int64_t ldout) {
  Sums whole[kTokens];
  const int8_t* four[kTokens];
  int64_t rows = panel.rows, step = rows * 4;
#pragma GCC unroll 16
  for (int i = 0; i < kTokens; ++i) {
    whole[i] = sums_of(r.sums[t + i]);
    four[i] = r.bytes + (t + i) * r.columns;
  }
  const uint8_t* at = panel.weight;
  for (int64_t k = 0; k < r.columns; k += 4, at += step) {
    __builtin_prefetch(at + kAhead);
    Weights weights = read_weights(at, rows);
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) {
      int32_t x;
      std::memcpy(&x, four[i] + k, sizeof x);
      whole[i] = add_whole(whole[i], weights, x);
    }
  }
  for (int i = 0; i < kTokens; ++i) {
    Ints total = to_ints(whole[i]) + panel.bias;
    Floats y = __builtin_convertvector(total, Floats) * panel.scale * r.factors[t + i];
    if (rows == kLanes) {
      store(out + i * ldout, y);
    } else {
      store_some(out + i * ldout, y, rows);
    }
  }
}

typedef void (*Tile)(const Whole& r, int64_t t, const Panel& panel, float* out, int64_t ldout);

template <int... kBefore>
constexpr std::array<Tile, kTokensAtOnce> tiles(std::integer_sequence<int, kBefore...>) {
  return {tile<kBefore + 1>...};
}

void some_rows(const Whole& r, int64_t m, const Linear& w, int64_t begin, int64_t end, float* found, int64_t width) {
  static thread_local PackedPanel packed;
  static constexpr auto kTiles = tiles(std::make_integer_sequence<int, kTokensAtOnce>());
  int64_t passes = (m + kTokensAtOnce - 1) / kTokensAtOnce;
  for (int64_t n = begin; n < end; n += kPanel) {
    int64_t rows = std::min(kPanel, w.rows - n);
    Panel panel = {nullptr, rows, load_some(w.row_scale + n, rows), Ints{}};
    if (w.row_bias != nullptr) std::memcpy(&panel.bias, w.row_bias + n, size_t(rows) * 4);
    if (w.layout == kPanels) {
      panel.weight = static_cast<const uint8_t*>(w.weight) + n * packed_bytes(w);
    } else {
      packed.fill(w, n);
      panel.weight = packed.weight.data();
    }
    for (int64_t pass = 0; pass < passes; ++pass) {
      int64_t t = m * pass / passes, count = m * (pass + 1) / passes - t;
      kTiles[size_t(count - 1)](r, t, panel, found + t * width + n - begin, width);
    }
  }
}

}  // namespace

void linear_whole(const float* x, int64_t m, const Linear& w, float* y, Finish how, Workspace& space) {
  Whole r = round_rows(x, m, w, space);
  by_ranges(m, w, y, how, [&](int64_t begin, int64_t end, float* found, int64_t width) {
    some_rows(r, m, w, begin, end, found, width);
  });
}

}  // namespace glm
