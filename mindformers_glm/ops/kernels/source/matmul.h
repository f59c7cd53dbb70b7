// C = A B^T for matrices of float32 in any order of memory. Goto and van de Geijn, Anatomy of High-Performance Matrix
// Multiplication, 2008: panels of both operands are laid out in the order in which a small kernel reads them.
#pragma once
#include <cstdint>

namespace glm {

struct Integers;

// `count` vectors of the same depth: number p of vector i is data[i * step + p * depth_step]; one of both steps is 1.
// Those of a weight of `integers` (widen.h) have no data: it is widened some panels at a time.
struct Vectors {
  const float* data;
  int64_t count, step, depth_step;
  float largest = -1;  // size of the largest number, where the caller knows it
  const Integers* integers = nullptr;
};

inline Vectors rows_of(const float* data, int64_t rows, int64_t columns) { return {data, rows, columns, 1}; }
inline Vectors columns_of(const float* data, int64_t /*rows*/, int64_t columns) { return {data, columns, 1, columns}; }

enum class Numbers { kFloat32, kHalf, kDouble };

// c (a.count, b.count), rows `c_step` apart: the inner products of all vectors of a with all of b, plus `bias`
// (b.count) where it is given, added to what is there with `add`. kHalf rounds the operands to 11 bits below a common
// power of two and adds 32 products at a time in 11 bits, the rest in float32; where the CPU has no fast
// instructions for that it is float32. kDouble multiplies and adds in float64, half as fast: for what is rounded to
// whole steps next, where the last bit of a number beside half a step decides.
void matmul(const Vectors& a, const Vectors& b, int64_t depth, float* c, int64_t c_step, const float* bias, bool add,
            Numbers numbers);

bool halves_are_fast();

// What a form of matmul consists of: how panels are packed and what the innermost kernel does.
struct MatmulForm {
  int64_t rows, columns;            // of C that the kernel makes at once: rows from a, columns from b
  int64_t row_bytes, column_bytes;  // that a number of a and of b takes in a panel
  // Panel of `count` (up to `rows` or `columns`) vectors from `first` on, numbers p to p + depth, times scale.
  void (*pack_rows)(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale, void* out);
  void (*pack_columns)(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale,
                       void* out);
  // tile (rows, columns): written.
  void (*multiply)(int64_t depth, const void* a, const void* b, float* tile);
};

const MatmulForm& float_form();
const MatmulForm& short_form();  // float_form that adds 16 products at a time, and then such sums: less is lost
const MatmulForm* half_form();   // null where the CPU has none

}  // namespace glm
