// Attention of new tokens over a cache that holds their own keys and values already.
#pragma once
#include <cstdint>

#include "vectors.h"

namespace glm {

constexpr int64_t kSlots = 64;  // tokens of a block

// How a block of the cache is laid out: for each layer and kv head keys (E, 64), so that scores of neighbouring slots
// stand side by side, then values (64, E), in float32, float16 or int8; int8 after a scale of each slot's key and of
// each slot's value (2, 64) float32. Of kind kWhole are whole numbers of 16 bits after such scales, in the order of
// whole_blocks.h.
constexpr int32_t kWhole = 16;

struct CacheForm {
  int32_t kind;
  int64_t kv_heads, head_dim;

  int64_t number_bytes() const { return kind == kFloat32 ? 4 : kind == kInt8 ? 1 : 2; }
  int64_t scale_bytes() const { return kind == kInt8 || kind == kWhole ? 2 * kSlots * int64_t(sizeof(float)) : 0; }
  int64_t part_bytes() const { return kSlots * head_dim * number_bytes(); }
  int64_t head_bytes() const { return scale_bytes() + 2 * part_bytes(); }
  char* head(char* block, int64_t layer, int64_t kv_head) const {
    return block + (layer * kv_heads + kv_head) * head_bytes();
  }
};

// A sequence of the batch: its new tokens are rows [first, first + count) of q and out, at slots [past, past + count);
// slot s is slot s % 64 of block s / 64.
struct Sequence {
  int64_t first, count, past;
  char* const* blocks;
};

// q, out (N, H * E), q already scaled. A prefix (K, P, E) is seen by every token.
struct Attention {
  int64_t heads;
  CacheForm form;
  int64_t layer;
  const float *prefix_keys, *prefix_values;
  int64_t prefix;
  bool short_sums;  // 8 products are added at a time, and then such sums: less is lost
};

// The kind in which a cache of this kind keeps its numbers: for float16 kWhole where the CPU multiplies whole numbers
// of 16 bits, unless sums are to be short.
int32_t kept_kind(int32_t kind, int64_t head_dim, bool short_sums);

// Writes key and value (E) of a kv head into slot `slot` of a block.
void put_in_cache(const CacheForm& form, char* head, int64_t slot, const float* key, const float* value);
// The same numbers back.
void read_from_cache(const CacheForm& form, const char* head, int64_t slot, float* key, float* value);

void cached_attention(const Attention& shape, const Sequence* sequences, int64_t count, const float* q, float* out);

}  // namespace glm
