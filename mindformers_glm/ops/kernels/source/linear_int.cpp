// Integer weights times activations rounded to 8 bits, with one scale for every 16 or 32 of them, in integer
// arithmetic. Weights are read in panels (packing.h), the same for one token and for many; what a token gets does not
// depend on those beside it.
#include <bit>

#include "linear.h"
#include "parallel.h"
#include "ranges.h"
#include "tiles.h"

namespace glm {
namespace {

constexpr int64_t kSpansTogether = 256;  // that a thread rounds at least

// Tokens in tiles (tiles.h). A tile is `groups` pieces: the words of `span` columns, the scale of each token's span,
// and of each token what takes the offset of the weights away, - offset * the span's sum.
struct Rounded {
  Tiles tiles;
  int64_t span, groups;
  char* data;

  int64_t token_bytes() const { return span + 8; }
  char* tile(int64_t number) const { return data + tiles.begin(number) * groups * token_bytes(); }
};

// Loops of a known length, which the compiler makes of each CPU's own vectors.
template <int kSpan>
inline void round_span(const float* x, int8_t* out, float* scale, int32_t* sum, int32_t offset) {
  int32_t most = 0, total = 0, bits[kSpan];
  std::memcpy(bits, x, sizeof bits);
  for (int i = 0; i < kSpan; ++i) most = std::max(most, bits[i] & 0x7fffffff);  // sizes are ordered as their bits are
  float top = most < 0x7f800000 ? std::bit_cast<float>(most) : NAN;             // what is not a number is above all
  float inverse = top > 0 ? 127.0f / top : 0.0f;
  for (int i = 0; i < kSpan; ++i) {
    constexpr float kWhole =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, to even where it is halfway
    int32_t whole = std::bit_cast<int32_t>(x[i] * inverse + kWhole) - 0x4b400000;
    whole = int8_t(whole);
    out[i] = int8_t(whole);
    total += whole;
  }
  *scale = top / 127.0f;
  *sum = -offset * total;
}

// Spans [begin, end) of a tile.
template <int kSpan>
void round_tile(const float* x, const Rounded& r, int64_t tile, int64_t begin, int64_t end, int32_t offset) {
  int64_t tokens = r.tiles.tokens(tile), columns = r.groups * r.span;
  x += r.tiles.begin(tile) * columns;
  for (int64_t g = begin; g < end; ++g) {
    char* piece = r.tile(tile) + g * tokens * r.token_bytes();
    auto* scales = reinterpret_cast<float*>(piece + tokens * r.span);
    auto* sums = reinterpret_cast<int32_t*>(scales + tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      alignas(64) int8_t bytes[2 * kLanes];
      round_span<kSpan>(x + i * columns + g * kSpan, bytes, scales + i, sums + i, offset);
      Words{piece + i * 4, tokens}.put(bytes, kSpan);
    }
  }
}

Rounded round_rows(const float* x, int64_t m, const Linear& w, Workspace& space) {
  Rounded r{Tiles(m), w.group % 32 == 0 ? 32 : 16, 0, nullptr};
  r.groups = w.columns / r.span;
  r.data = reinterpret_cast<char*>(space.bytes.take(m * r.groups * r.token_bytes() / 4));
  int32_t offset = w.kind == kInt4 ? 8 : kSignedBytes ? 0 : 128;
  int64_t pieces = r.tiles.count < 2 * threads() ? std::min(r.groups, (m * r.groups - 1) / kSpansTogether + 1) : 1;
  parallel_for(r.tiles.count * pieces, [&](int64_t i) {
    int64_t piece = i % pieces, begin = r.groups * piece / pieces, end = r.groups * (piece + 1) / pieces;
    (r.span == 32 ? round_tile<32> : round_tile<16>)(x, r, i / pieces, begin, end, offset);
  });
  return r;
}

// `share` spans of x to a group of the weight.
typedef void (*Tile)(const char* x, int64_t groups, const Panel& panel, int64_t share, Ahead ahead, float* out,
                     int64_t ldout);

template <int kSpan, bool kFour>
struct Of {
  template <int kTokens>
  struct Kind {
    static void run(const char* x, int64_t groups, const Panel& panel, int64_t share, Ahead ahead, float* out,
                    int64_t ldout) {
      constexpr int kSteps = kSpan / (kFour ? 8 : 4);
      Totals total[kTokens] = {};
      const uint8_t* at = panel.weight;
      const uint16_t* scale_at = panel.scale;
      Totals scale = {};
      for (int64_t g = 0, left = 0; g < groups; ++g, at += kSteps * kPanel * 4, x += kTokens * (kSpan + 8)) {
        if (left == 0) {
          scale = read_scales(scale_at);
          scale_at += kPanel;
          left = share;
        }
        --left;
        const auto* scales = reinterpret_cast<const float*>(x + kTokens * kSpan);
        const auto* sums = reinterpret_cast<const int32_t*>(scales + kTokens);
        Sums whole[kTokens];
#pragma GCC unroll 16
        for (int i = 0; i < kTokens; ++i) whole[i] = sums_of(sums[i]);
        add_steps<kTokens, kSteps, kFour>(whole, at, x, ahead);
#pragma GCC unroll 16
        for (int i = 0; i < kTokens; ++i) add_scaled(total[i], whole[i], times(scale, scales[i]));
      }
#pragma GCC unroll 16
      for (int i = 0; i < kTokens; ++i) {
        Floats found = to_floats(total[i]);
        if (panel.rows == kLanes) {
          store(out + i * ldout, found);
        } else {
          store_some(out + i * ldout, found, panel.rows);
        }
      }
    }
  };
};

// Tiles of 1, 2, ... tokens.
const Tile* tiles_for(const Linear& w, int64_t span) {
  constexpr auto kCounts = std::make_integer_sequence<int, kTokensAtOnce>();
  static constexpr std::array<Tile, kTokensAtOnce> kAll[] = {
      by_tokens<Of<16, false>::Kind, Tile>(kCounts), by_tokens<Of<32, false>::Kind, Tile>(kCounts),
      by_tokens<Of<16, true>::Kind, Tile>(kCounts), by_tokens<Of<32, true>::Kind, Tile>(kCounts)};
  return kAll[(w.kind == kInt4 ? 2 : 0) + (span == 32 ? 1 : 0)].data();
}

// found (m, end - begin) = x W^T for rows [begin, end) of W; begin is where a panel begins.
void some_rows(const Rounded& r, const Linear& w, int64_t begin, int64_t end, float* found, int64_t width) {
  static thread_local PanelMemory memory;
  const Tile* all = tiles_for(w, r.span);
  int64_t share = w.group / r.span, bytes = kPanel * packed_bytes(w);
  for (int64_t n = begin; n < end; n += kPanel) {
    Panel panel = memory.find(w, n);
    for (int64_t i = 0; i < r.tiles.count; ++i) {
      float* out = found + r.tiles.begin(i) * width + n - begin;
      all[r.tiles.tokens(i) - 1](r.tile(i), r.groups, panel, share, Ahead(panel, bytes, r.tiles, i), out, width);
    }
  }
}

}  // namespace

void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish how, Workspace& space) {
  Rounded r = round_rows(x, m, w, space);
  by_ranges(m, w, y, how, [&](int64_t begin, int64_t end, float* found, int64_t width) {
    some_rows(r, w, begin, end, found, width);
  });
}

}  // namespace glm
