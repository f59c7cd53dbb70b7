// Attention of new tokens over a cache that holds their own keys and values already.
#pragma once
#include <cstdint>

namespace glm {

// A row of the batch: its new tokens are rows [first, first + count) of q and out, at slots [past, past + count).
struct Sequence {
  int64_t first, count, past;
  const float *keys, *values;  // (K, slots, E) of this layer and row; head k begins at k * stride
  int64_t stride;
};

// q, out (N, H * E), q already scaled. A prefix (K, P, E) is seen by every token.
struct Attention {
  int64_t heads, kv_heads, head_dim;
  const float *prefix_keys, *prefix_values;
  int64_t prefix;
};

void cached_attention(const Attention& shape, const Sequence* sequences, int64_t count, const float* q, float* out);

}  // namespace glm
