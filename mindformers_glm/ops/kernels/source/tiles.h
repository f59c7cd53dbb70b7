// Tokens in tiles of up to kTokensAtOnce, which a weight is multiplied with at once. Of a tile's numbers every four
// neighbours of a token are a word, and the words of all its tokens stand side by side.
#pragma once
#include <algorithm>
#include <array>
#include <utility>

#include "dots.h"
#include "packing.h"

namespace glm {

constexpr int64_t kBytesAhead = 8192;

struct Tiles {
  int64_t all, count;

  explicit Tiles(int64_t m) : all(m), count((m + kTokensAtOnce - 1) / kTokensAtOnce) {}

  int64_t begin(int64_t tile) const { return all * tile / count; }
  int64_t tokens(int64_t tile) const { return begin(tile + 1) - begin(tile); }
};

// Where the words of a tile of `tokens` go, from those of one token on.
struct Words {
  char* at;
  int64_t tokens;

  void put(const int8_t* numbers, int64_t count) const {
    for (int64_t i = 0; i < count; i += 4) std::memcpy(at + i * tokens, numbers + i, 4);
  }
};

// Asks for what will be read: where a panel is read by one tile some lines ahead, where by several, each asks for its
// part of the next panel. A step of many tokens takes as long as a line from the second cache, so it goes no nearer.
struct Ahead {
  const uint8_t* at;
  int64_t step;

  Ahead(const Panel& panel, int64_t bytes, const Tiles& tiles, int64_t tile)
      : at(panel.weight + (tiles.count == 1 ? kBytesAhead : bytes + bytes * tile / tiles.count)),
        step(kPanel * 4 / tiles.count) {}

  template <int kTokens>
  void fetch() {
    __builtin_prefetch(at, 0, kTokens < 4 ? 3 : 2);
    at += step;
  }
};

#if defined(GLM_PAIRS)

// kSteps steps of a panel for a tile, whose words begin at x: tokens in pairs, and the one that is left.
template <int kTokens, int kSteps, bool kFour, bool kWhole = false>
inline __attribute__((always_inline)) void add_steps(Sums (&sums)[kTokens], const uint8_t* panel, const char* x,
                                                     Ahead& ahead) {
  constexpr int kTogether = kFour ? 1 : 2, kPairs = kTokens / 2;  // steps of a panel that are two of words
  Pairs pairs[kPairs + 1];
  auto multiply = [&](Weights first, Weights second, int place) __attribute__((always_inline)) {
    const char* words = x + place * kTokens * 4;
    for (int i = 0; i < kPairs; ++i) add_two_steps(pairs[i], first, second, words + i * 8, kTokens * 4);
    for (int i = 2 * kPairs; i < kTokens; ++i) {
      int32_t four[2];
      std::memcpy(&four[0], words + i * 4, 4);
      std::memcpy(&four[1], words + (kTokens + i) * 4, 4);
      sums[i] = add_dots<kFour>(add_dots<kFour>(sums[i], first, four[0]), second, four[1]);
    }
  };
#pragma GCC unroll 8
  for (int q = 0; q + kTogether <= kSteps; q += kTogether) {
    for (int i = 0; i < kTogether; ++i) ahead.fetch<kTokens>();
    Weights weights = read_weights(panel + q * kPanel * 4);
    if (kFour) {
      multiply(low_halves(weights), high_halves(weights), 2 * q);
    } else {
      multiply(weights, read_weights(panel + (q + 1) * kPanel * 4), q);
    }
  }
  if (kTogether == 2 && kSteps % 2 == 1) {
    for (int i = 0; i < kTokens; ++i) {
      int32_t four;
      std::memcpy(&four, x + ((kSteps - 1) * kTokens + i) * 4, sizeof four);
      sums[i] = add_dots<kFour>(sums[i], read_weights(panel + (kSteps - 1) * kPanel * 4), four);
    }
  }
  for (int i = 0; i < kPairs; ++i) add_pairs(sums[2 * i], sums[2 * i + 1], pairs[i]);
}

#else

// kSteps steps of a panel for a tile, whose words begin at x; kWhole: as add_whole.
template <int kTokens, int kSteps, bool kFour, bool kWhole = false>
inline __attribute__((always_inline)) void add_steps(Sums (&sums)[kTokens], const uint8_t* panel, const char* x,
                                                     Ahead& ahead) {
  constexpr bool kShort = kFour && 2 * kSteps <= kShortSteps;
  Sums shorts[kTokens];
  if (kShort) std::fill_n(shorts, kTokens, sums_of(0));
  auto multiply = [&](Weights weights, int place) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) {
      const char* at = x + (place * kTokens + i) * 4;
      if (kShort) {
        int32_t four;
        std::memcpy(&four, at, sizeof four);
        shorts[i] = short_dots(shorts[i], weights, four);
      } else {
        sums[i] = kWhole ? add_whole_at(sums[i], weights, at) : add_dots_at<kFour>(sums[i], weights, at);
      }
    }
  };
#pragma GCC unroll 8
  for (int q = 0; q < kSteps; ++q) {
    ahead.fetch<kTokens>();
    Weights weights = read_weights(panel + q * kPanel * 4);
    if (kFour) {
      multiply(low_halves(weights), 2 * q);
      multiply(high_halves(weights), 2 * q + 1);
    } else {
      multiply(weights, q);
    }
  }
  if (kShort) {
#pragma GCC unroll 16
    for (int i = 0; i < kTokens; ++i) sums[i] = add_shorts(sums[i], shorts[i]);
  }
}

#endif

// table[t - 1] is `Kind` for tiles of t tokens.
template <template <int> class Kind, class Function, int... kBefore>
constexpr std::array<Function, kTokensAtOnce> by_tokens(std::integer_sequence<int, kBefore...>) {
  return {Kind<kBefore + 1>::run...};
}

}  // namespace glm
