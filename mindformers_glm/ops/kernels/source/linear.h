// y = x W^T + b for weights in any format. M rows of x, K columns, N rows of W.
#pragma once
#include <cstdint>
#include <vector>

#include "vectors.h"

namespace glm {

// A weight (N, K) in row-major order. Integers carry one float16 scale for each `group` columns: int8 as they are,
// int4 as 128 columns in 64 bytes, the first 64 in the low halves, 8 meaning 0; see ops/quantized.py.
// `lora_a` (rank, K) and `lora_b` (N, rank) are added times `lora_scale` where they are given.
struct Linear {
  const void* weight;
  const uint16_t* scale;
  const void* bias;
  const Linear* lora_a;
  const Linear* lora_b;
  int64_t rows, columns;
  int32_t kind, group, bias_kind;
  float lora_scale;
};

// Memory that is kept from call to call.
struct Buffer {
  std::vector<float> floats;
  float* take(int64_t count);
};

struct Workspace {
  Buffer scales, lanes, bytes, low, wide;
};

// A matrix product of another library: C (m, n) = A (m, k) B^T, B (n, k), as dnnl_sgemm states it; null means ours.
typedef int (*Sgemm)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t, float,
                     float*, int64_t);
void set_sgemm(Sgemm function);
Sgemm sgemm();

enum Finish { kWrite, kAdd, kSwiglu };

// y (M, N): written, or added to what is there; with kSwiglu y (M, N / 2) = silu(first half) * second half.
void linear(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

// The numbers of row `row` of a weight as floats.
void read_row(const Linear& w, int64_t row, float* out);
// `count` numbers of a vector of this kind.
void read_numbers(const void* from, int32_t kind, int64_t count, float* out);

// linear_int.cpp: integers times integers where the processor has instructions for that.
bool integers_are_fast();
void linear_integers(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space);

}  // namespace glm
