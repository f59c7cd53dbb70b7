// A whole GLM network over a cache, for inference, as Python describes it (kernels/structures.py is the same in ctypes;
// structures.cpp says how this compiler laid it out, and Python compares).
// L layers, R sequences, N new tokens of all of them, D hidden, H heads, K kv heads, E head_dim, F ffn, V vocabulary.
#pragma once
#include <cstdint>

#include "linear.h"

extern "C" {

struct GlmNorm {
  const void *weight, *bias;  // a bias makes it a LayerNorm; without a weight there is no norm
  int32_t kind;
};

struct GlmLayer {
  GlmNorm attention_norm;
  glm::Linear qkv, out;
  GlmNorm after_attention;  // of the branch, before it is added to the residual
  GlmNorm mlp_norm;
  glm::Linear gate_up, down;
  GlmNorm after_mlp;
};

struct GlmNetwork {
  int64_t layers, hidden, heads, kv_heads, head_dim, rotary_dim, ffn, vocabulary, length;
  float epsilon;
  int32_t is_grouped;        // rows q | k | v, otherwise q, k, v of each head
  int32_t residual_is_norm;  // apply_residual_connection_post_layernorm
  int32_t has_final_norm;
  const float* rotary;  // (length, 2, E): cosines and sines, of which the first rotary_dim numbers of a head are turned
  glm::Linear embedding;
  const GlmLayer* layer;
  GlmNorm final_norm;
  glm::Linear head;
  const float* prefix;  // (L, 2, K, P, E)
  int64_t prefix_length;
};

struct GlmStep {
  int64_t sequences, width, num_wanted, most_blocks;
  const int32_t *tokens, *counts, *lengths;  // (R, width), (R), (R): tokens in the cache already
  const int32_t* adapters;                   // (R): number of each sequence's adapter; null: 0 for all
  char* const* blocks;                       // (R, most_blocks): cached_attention.h; enough of them for the new tokens
  const int32_t* wanted;                     // flat positions sequence * width + token
  float* logits;                             // (num_wanted, V)
  int32_t cache_kind;                        // of numbers in the cache: kFloat32, kFloat16 or kInt8
};

void* glm_new_workspace();
void glm_free_workspace(void* space);
// 0: done; 1: memory was not enough; 2: an id is not in the vocabulary, nothing was computed.
int glm_forward(const GlmNetwork* network, const GlmStep* step, void* workspace);
void glm_set_threads(int count);
void glm_linear(const float* x, int64_t m, const glm::Linear* w, float* y, void* workspace);
void glm_pack(const glm::Linear* w, void* weight, uint16_t* scale);
// So many tokens of a step get from float weights the numbers that each has alone, bit for bit.
int64_t glm_tokens_as_alone(const GlmNetwork* network);
// Bytes of a block of the cache of a network.
int64_t glm_block_bytes(const GlmNetwork* network, int32_t cache_kind);
// Keys and values (L, K, count, E) of the first `count` tokens of a sequence with these blocks.
void glm_read_cache(const GlmNetwork* network, int32_t cache_kind, char* const* blocks, int64_t count, float* keys,
                    float* values);
const char* glm_structures();
}
