// How panels of vectors are laid out: number p of all vectors side by side, vectors that are missing as zeros.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "matmul.h"
#include "vectors.h"

namespace glm {

// Rows become columns: four perfect shuffles.
inline void transpose(Floats* r) {
  Floats t[16];
  for (int round = 0; round < 4; round += 2) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = first_halves(r[i], r[i + 8]);
      t[2 * i + 1] = last_halves(r[i], r[i + 8]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      r[2 * i] = first_halves(t[i], t[i + 8]);
      r[2 * i + 1] = last_halves(t[i], t[i + 8]);
    }
  }
}

// A panel `Width` vectors wide. `put(place, numbers, count)` stores the first `count` of sixteen numbers at
// out[place]; with count 16 it may be asked to write over places of this panel that come later.
template <int Width, class Put>
inline void pack(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale,
                 const Put& put) {
  constexpr int kGroup = Width < kLanes ? Width : kLanes;
  Floats factor = splat(scale);
  for (int64_t group = 0; group < Width; group += kGroup) {
    int64_t there = count - group < 0 ? 0 : count - group < kGroup ? count - group : kGroup;
    const float* from = v.data + (first + group) * v.step + p * v.depth_step;
    if (v.depth_step == 1) {
      for (int64_t q = 0; q < depth; q += kLanes) {
        int64_t some = depth - q < kLanes ? depth - q : kLanes;
        Floats block[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          if (i >= there) {
            block[i] = Floats{};
          } else {
            block[i] = some == kLanes ? load(from + i * v.step + q) : load_some(from + i * v.step + q, some);
          }
        }
        transpose(block);
        for (int64_t i = 0; i < some; ++i) {
          bool inside = (depth - q - i - 1) * Width + kGroup >= kLanes;  // sixteen numbers from here stay in the panel
          put((q + i) * Width + group, block[i] * factor, kGroup == kLanes || inside ? kLanes : kGroup);
        }
      }
    } else {
      auto rows = [&](auto known) {
        for (int64_t q = 0; q < depth; ++q) {
          put(q * Width + group, load_some(from + q * v.depth_step, known) * factor, kGroup);
        }
      };
      there == kGroup ? rows(std::integral_constant<int64_t, kGroup>()) : rows(there);
    }
  }
}

}  // namespace glm
