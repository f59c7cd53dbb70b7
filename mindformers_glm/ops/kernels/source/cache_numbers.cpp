// Keys and values of single tokens, to and from blocks of the cache.
#include "cached_attention.h"
#include "whole_blocks.h"

namespace glm {
namespace {

template <class Format>
void put(int64_t e, char* part, int64_t slot, const float* key, const float* value) {
  auto* keys = reinterpret_cast<typename Format::Stored*>(part);
  auto* values = keys + kSlots * e + slot * e;
  for (int64_t i = 0; i < e; ++i) keys[i * kSlots + slot] = Format::stored(key[i]);
  for (int64_t i = 0; i < e; ++i) values[i] = Format::stored(value[i]);
}

template <class Format>
void get(int64_t e, const char* part, int64_t slot, float key_scale, float value_scale, float* key, float* value) {
  const auto* keys = reinterpret_cast<const typename Format::Stored*>(part);
  const auto* values = keys + kSlots * e + slot * e;
  for (int64_t i = 0; i < e; ++i) key[i] = Format::one(keys[i * kSlots + slot]) * key_scale;
  for (int64_t i = 0; i < e; ++i) value[i] = Format::one(values[i]) * value_scale;
}

struct AsFloat : Float32 {
  static float stored(float x) { return x; }
};
struct AsHalf : Float16 {
  static uint16_t stored(float x) { return float_to_half(x); }
};

// Numbers of at most 127, the scale that brings them back.
float put_bytes(const float* from, int64_t e, int8_t* to, int64_t step) {
  float top = 0;
  for (int64_t i = 0; i < e; ++i) {
    if (!(std::fabs(from[i]) <= top)) top = std::fabs(from[i]);  // what is not a number stays visible
  }
  float inverse = top > 0 ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < e; ++i) {
    float scaled = from[i] * inverse;
    to[i * step] = scaled >= -127.5f && scaled <= 127.5f ? int8_t(std::lrintf(scaled)) : int8_t(0);
  }
  return top / 127.0f;
}

}  // namespace

int32_t kept_kind(int32_t kind, int64_t head_dim, bool short_sums) {
#if defined(GLM_WHOLE_BLOCKS)
  if (kind == kFloat16 && head_dim % 32 == 0 && !short_sums) return kWhole;
#endif
  (void)head_dim, (void)short_sums;
  return kind;
}

void put_in_cache(const CacheForm& form, char* head, int64_t slot, const float* key, const float* value) {
  int64_t e = form.head_dim;
#if defined(GLM_WHOLE_BLOCKS)
  if (form.kind == kWhole) return put_whole(head, e, slot, key, value);
#endif
  if (form.kind == kFloat32) {
    put<AsFloat>(e, head, slot, key, value);
  } else if (form.kind == kFloat16) {
    put<AsHalf>(e, head, slot, key, value);
  } else {
    auto* scales = reinterpret_cast<float*>(head);
    auto* keys = reinterpret_cast<int8_t*>(head + form.scale_bytes());
    scales[slot] = put_bytes(key, e, keys + slot, kSlots);
    scales[kSlots + slot] = put_bytes(value, e, keys + kSlots * e + slot * e, 1);
  }
}

void read_from_cache(const CacheForm& form, const char* head, int64_t slot, float* key, float* value) {
  int64_t e = form.head_dim;
#if defined(GLM_WHOLE_BLOCKS)
  if (form.kind == kWhole) return get_whole(WholeBlock(head, e), e, slot, key, value);
#endif
  if (form.kind == kFloat32) {
    get<Float32>(e, head, slot, 1, 1, key, value);
  } else if (form.kind == kFloat16) {
    get<Float16>(e, head, slot, 1, 1, key, value);
  } else {
    const auto* scales = reinterpret_cast<const float*>(head);
    get<Int8>(e, head + form.scale_bytes(), slot, scales[slot], scales[kSlots + slot], key, value);
  }
}

}  // namespace glm
