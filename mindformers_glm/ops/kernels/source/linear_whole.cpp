// W8A8: weights and activations of 8 bits, integer sums over a whole row, one scale at the end. Nothing is
// rounded but x, once, so that every kind of CPU finds the same numbers as the formula (ops/w8a8.py).
#include "linear.h"
#include "parallel.h"
#include "ranges.h"
#include "tiles.h"

namespace glm {
namespace {

constexpr int64_t kStepsTogether = 8;  // between which a tile looks whether it is done

// Tokens as int8 in tiles (tiles.h), of each what takes the offset of the weights away, and its factor: 1 or its
// own scale; not a number where x holds such.
struct Whole {
  Tiles tiles;
  int64_t columns;
  char* data;
  int32_t* sums;
  float* factors;

  char* tile(int64_t number) const { return data + tiles.begin(number) * columns; }
};

inline Ints rounded(Floats v) {  // of numbers between -2^21 and 2^21, to even where they are halfway
  return bits_as<Ints>(v + 12582912.0f) - 0x4b400000;
}

float largest(const float* x, int64_t count) {
  Floats top = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats v = load_some(x + i, std::min<int64_t>(kLanes, count - i));
    top = larger(top, choose(v < 0.0f, -v, v));
  }
  return highest(top);
}

void round_row(const float* x, const Linear& w, const Words& out, int32_t* sum, float* factor) {
  bool is_static = w.input_scale > 0;
  float top = is_static ? 0 : largest(x, w.columns), scale = is_static ? w.input_scale : top / 127.0f;
  Floats divisor = splat(scale > 0 ? scale : 1), offset = splat(is_static ? w.input_offset : 0), check = {};
  Ints total = {};
  for (int64_t i = 0; i < w.columns; i += kLanes) {
    int64_t left = std::min<int64_t>(kLanes, w.columns - i);
    Floats v = load_some(x + i, left);
    check += v * 0.0f;
    v = v / divisor + offset;
    v = choose(v > -128.0f, v, splat(-128.0f));
    v = choose(v < 127.0f, v, splat(127.0f));
    Ints whole = rounded(v);
    alignas(16) int8_t numbers[kLanes];
    store_bytes(numbers, whole);
    Words{out.at + i * out.tokens, out.tokens}.put(numbers, left);
    total += left == kLanes ? whole : choose(numbered() < int32_t(left), whole, Ints{});
  }
  *sum = -kWholeOffset * glm::sum(total);
  *factor = (is_static ? 1.0f : scale) + glm::sum(check);
}

Whole round_rows(const float* x, int64_t m, const Linear& w, Workspace& space) {
  Whole r{Tiles(m), w.columns, nullptr, nullptr, nullptr};
  r.data = reinterpret_cast<char*>(space.bytes.take(m * r.columns / 4));
  r.factors = space.scales.take(m);
  r.sums = reinterpret_cast<int32_t*>(space.sums.take(m));
  parallel_for(r.tiles.count, [&](int64_t tile) {
    int64_t begin = r.tiles.begin(tile), tokens = r.tiles.tokens(tile);
    for (int64_t i = 0; i < tokens; ++i) {
      int64_t t = begin + i;
      round_row(x + t * r.columns, w, {r.tile(tile) + i * 4, tokens}, r.sums + t, r.factors + t);
    }
  });
  return r;
}

// What belongs to the sums of a panel's rows.
struct Factors {
  Floats scale;
  Ints bias;
};

typedef void (*Tile)(const Whole& r, int64_t tile, const Panel& panel, const Factors& factors, Ahead ahead, float* out,
                     int64_t ldout);

template <int kTokens>
struct Kind {
  static void run(const Whole& r, int64_t tile, const Panel& panel, const Factors& factors, Ahead ahead, float* out,
                  int64_t ldout) {
    int64_t first = r.tiles.begin(tile), steps = r.columns / 4;
    Sums whole[kTokens];
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) whole[i] = sums_of(r.sums[first + i]);
    const uint8_t* at = panel.weight;
    const char* x = r.tile(tile);
    for (; steps >= kStepsTogether; steps -= kStepsTogether) {
      add_steps<kTokens, kStepsTogether, false, true>(whole, at, x, ahead);
      at += kStepsTogether * kPanel * 4;
      x += kStepsTogether * kTokens * 4;
    }
    for (; steps > 0; --steps, at += kPanel * 4, x += kTokens * 4)
      add_steps<kTokens, 1, false, true>(whole, at, x, ahead);
    for (int i = 0; i < kTokens; ++i) {
      Ints total = to_ints(whole[i]) + factors.bias;
      Floats y = convert<Floats>(total) * factors.scale * r.factors[first + i];
      if (panel.rows == kLanes) {
        store(out + i * ldout, y);
      } else {
        store_some(out + i * ldout, y, panel.rows);
      }
    }
  }
};

void some_rows(const Whole& r, const Linear& w, int64_t begin, int64_t end, float* found, int64_t width) {
  static thread_local PanelMemory memory;
  static constexpr auto kTiles = by_tokens<Kind, Tile>(std::make_integer_sequence<int, kTokensAtOnce>());
  for (int64_t n = begin; n < end; n += kPanel) {
    Panel panel = memory.find(w, n);
    Factors factors = {load_some(w.row_scale + n, panel.rows), Ints{}};
    if (w.row_bias != nullptr) std::memcpy(&factors.bias, w.row_bias + n, size_t(panel.rows) * 4);
    for (int64_t i = 0; i < r.tiles.count; ++i) {
      float* out = found + r.tiles.begin(i) * width + n - begin;
      Ahead ahead(panel, kPanel * packed_bytes(w), r.tiles, i);
      kTiles[size_t(r.tiles.tokens(i) - 1)](r, i, panel, factors, ahead, out, width);
    }
  }
}

}  // namespace

void linear_whole(const float* x, int64_t m, const Linear& w, float* y, Finish how, Workspace& space) {
  Whole r = round_rows(x, m, w, space);
  by_ranges(m, w, y, how, [&](int64_t begin, int64_t end, float* found, int64_t width) {
    some_rows(r, w, begin, end, found, width);
  });
}

}  // namespace glm
