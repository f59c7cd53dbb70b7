// y = x W^T + b for weights in any format. M tokens, the rows of x; K columns, N rows of W.
#pragma once
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace glm {

// A weight (N, K). Floats are in row-major order. Integers carry one float16 scale for each `group` columns (a multiple
// of 16) and lie in rows, int8 as they are, int4 as 128 columns in 64 bytes, the first 64 in the low halves, 8 meaning
// 0 (ops/quantized.py), or in panels (packing.h), which matmuls read faster. `loras` holds an adapter for each number.
//
// kW8A8 is int8 with one float32 `row_scale` for each row. x becomes clip(round(x / input_scale + input_offset), -128,
// 127), `row_bias` (N) is added to the sums of whole numbers, and row_scale times that is y. Without an input_scale (0)
// each token has its own, max|x| / 127, which then multiplies too, and there is no row_bias. K is a multiple of 4.
enum Layout : int32_t { kRows = 0, kPanels = 1 };

struct Lora;

struct Linear {
  const void* weight;
  const uint16_t* scale;
  const void* bias;
  const Lora* loras;
  int64_t rows, columns, num_loras;
  int32_t kind, group, bias_kind, layout;
  float input_scale, input_offset;
  const float* row_scale;
  const int32_t* row_bias;
};

// What an adapter makes of y = x W^T: y + scale * (x a^T) b^T, of which `factor` (N) multiplies every token's where it
// is given (DoRA), before the bias. Without `a` (rank, K) and `b` (N, rank) it does nothing.
struct Lora {
  const Linear *a, *b;
  const float* factor;
  float scale;
};

// Tokens [begin, end) belong to the adapter of this number.
struct Share {
  int64_t begin, end;
  int32_t adapter;
};

// Memory that is kept from call to call.
struct Buffer {
  std::vector<float> floats;
  float* take(int64_t count);
};

struct Workspace {
  Buffer scales, sums, bytes, low, wide, widened;
  bool in_doubles = false;  // sums of floats: matmul.h, Numbers
};

enum Finish { kWrite, kAdd, kSwiglu };

// y (M, N): written, or added to what is there; with kSwiglu y (M, N / 2) = silu(first half) * second half. Without
// `shares` every token belongs to adapter 0.
void linear(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space,
            const std::vector<Share>* shares = nullptr);

// Up to so many tokens a float weight gives each the numbers that it has alone, bit for bit; more are summed otherwise.
int64_t tokens_as_alone(bool in_doubles);

// The numbers of row `row` of a weight of floats, int8 or int4 (in rows) as float32.
void read_row(const Linear& w, int64_t row, float* out);
// `count` numbers of a vector of this kind.
void read_numbers(const void* from, int32_t kind, int64_t count, float* out);

// linear_int.cpp: activations are rounded to 8 bits. With kSwiglu N / 2 is a multiple of 16.
void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

// linear_whole.cpp: kW8A8, exactly.
void linear_whole(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

}  // namespace glm
