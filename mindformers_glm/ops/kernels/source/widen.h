// Integer weights (N, K) in rows (linear.h) as operands of matmuls of floats: what they stand for, a block at a time.
#pragma once
#include <cstdint>

#include "matmul.h"

namespace glm {

// `four`: 4 bits, otherwise 8. `group` columns share a float16 scale.
struct Integers {
  const uint8_t* weight;
  const uint16_t* scale;
  int64_t rows, columns, group;
  bool four;

  int64_t row_bytes() const { return four ? (columns + 127) / 128 * 64 : columns; }
};

// The numbers of `count` vectors from `first` on, p to p + depth, written to `memory`, which has `widened_size` floats.
Vectors widened(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float* memory);
int64_t widened_size(const Vectors& v, int64_t count, int64_t depth);

// Row `row` of a weight; `out` has room for a multiple of 16 numbers.
void widen_row(const Integers& w, int64_t row, float* out);

// Rows or columns of a weight as vectors.
Vectors rows_of(const Integers& w);
Vectors columns_of(const Integers& w);

}  // namespace glm
