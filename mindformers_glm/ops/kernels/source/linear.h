// y = x W^T + b for weights in any format. M rows of x, K columns, N rows of W.
#pragma once
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace glm {

// A weight (N, K). Floats are in row-major order. Integers carry one float16 scale for each `group` columns (a multiple
// of 16) and lie in rows, int8 as they are, int4 as 128 columns in 64 bytes, the first 64 in the low halves, 8 meaning
// 0 (ops/quantized.py), or in panels (packing.h), which products read faster. `lora_a` (rank, K) and `lora_b` (N, rank)
// are added times `lora_scale` where they are given.
enum Layout : int32_t { kRows = 0, kPanels = 1 };

struct Linear {
  const void* weight;
  const uint16_t* scale;
  const void* bias;
  const Linear* lora_a;
  const Linear* lora_b;
  int64_t rows, columns;
  int32_t kind, group, bias_kind, layout;
  float lora_scale;
};

// Memory that is kept from call to call.
struct Buffer {
  std::vector<float> floats;
  float* take(int64_t count);
};

struct Workspace {
  Buffer scales, sums, bytes, low, wide, widened;
};

enum Finish { kWrite, kAdd, kSwiglu };

// y (M, N): written, or added to what is there; with kSwiglu y (M, N / 2) = silu(first half) * second half.
void linear(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

// The numbers of row `row` of a weight of floats as float32.
void read_row(const Linear& w, int64_t row, float* out);
// `count` numbers of a vector of this kind.
void read_numbers(const void* from, int32_t kind, int64_t count, float* out);

// linear_int.cpp: activations are rounded to 8 bits. With kSwiglu N / 2 is a multiple of 16.
void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

}  // namespace glm
