// A whole ChatGLM network over a cache, for inference: token ids in, logits of the wanted rows out.
// L layers, R rows, N new tokens of all rows, D hidden, H heads, K kv heads, E head_dim, F ffn, V vocabulary, S slots.
#include <algorithm>
#include <vector>

#include "cached_attention.h"
#include "linear.h"
#include "parallel.h"

using namespace glm;

extern "C" {

struct GlmNorm {
  const void *weight, *bias;  // a bias makes it a LayerNorm
  int32_t kind;
};

struct GlmLayer {
  GlmNorm input_layernorm;
  Linear query_key_value, dense;
  GlmNorm post_attention_layernorm;
  Linear dense_h_to_4h, dense_4h_to_h;
};

struct GlmNetwork {
  int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocabulary, length;
  float epsilon;
  int32_t is_grouped;        // rows q | k | v, otherwise q, k, v of each head
  int32_t residual_is_norm;  // apply_residual_connection_post_layernorm
  int32_t has_final_norm;
  const float* rotary;  // (length, 2, E): cosines and sines
  Linear embedding;
  const GlmLayer* layer;
  GlmNorm final_layernorm;
  Linear output_layer;
  const float *prefix;  // (L, 2, K, P, E)
  int64_t prefix_length;
};

struct GlmStep {
  int64_t rows, width, slots, num_wanted;
  const int32_t *tokens, *counts, *lengths;  // (R, width), (R), (R): tokens in the cache already
  float *keys, *values;                      // (L, R, K, S, E)
  const int32_t* wanted;                     // flat places row * width + token
  float* logits;                             // (num_wanted, V)
};

void* glm_new_workspace();
void glm_free_workspace(void* space);
int glm_forward(const GlmNetwork* network, const GlmStep* step, void* workspace);
void glm_set_threads(int count);
void glm_set_sgemm(void* function);
int glm_integers_are_fast();
void glm_linear(const float* x, int64_t m, const Linear* w, float* y, void* workspace);
}

namespace {

struct Memory {
  Workspace linear;
  Buffer stream, normed, heads, q, mixed, inner;
};

void norm(const GlmNorm& n, const float* x, int64_t rows, int64_t d, float epsilon, float* out) {
  static thread_local std::vector<float> weight, bias;
  weight.resize(size_t(d));
  bias.assign(size_t(d), 0.0f);
  read_numbers(n.weight, n.kind, d, weight.data());
  if (n.bias != nullptr) read_numbers(n.bias, n.kind, d, bias.data());
  const float *w = weight.data(), *b = bias.data();
  bool centred = n.bias != nullptr;
  parallel_ranges(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x + t * d;
      float mean = 0, square = 0;
      if (centred) {
        for (int64_t i = 0; i < d; ++i) mean += row[i];
        mean /= float(d);
      }
      Floats total = {};
      int64_t i = 0;
      for (; i + kLanes <= d; i += kLanes) {
        Floats v = load(row + i) - mean;
        total += v * v;
      }
      square = sum(total);
      for (; i < d; ++i) square += (row[i] - mean) * (row[i] - mean);
      float scale = 1.0f / std::sqrt(square / float(d) + epsilon);
      for (i = 0; i + kLanes <= d; i += kLanes)
        store(out + t * d + i, (load(row + i) - mean) * scale * load(w + i) + load(b + i));
      for (; i < d; ++i) out[t * d + i] = (row[i] - mean) * scale * w[i] + b[i];
    }
  });
}

void rotate(float* head, const float* cos, const float* sin, int64_t e) {
  for (int64_t i = 0; i < e / 2; i += 2) {
    float even = head[i], odd = head[i + 1];
    head[i] = even * cos[i] - odd * sin[i];
    head[i + 1] = odd * cos[i] + even * sin[i];
  }
}

// Projections (N, (H + 2 K) E) -> scaled queries (N, H E) in `q`, keys and values in the cache of one layer.
void place(const GlmNetwork& net, const std::vector<Sequence>& sequences, const float* projected, float* q) {
  int64_t e = net.head_dim, h = net.heads, k = net.kv_heads, width = (h + 2 * k) * e;
  float scale = 1.0f / std::sqrt(float(e));
  auto from = [&](int64_t head, int part) {  // where a head's query, key or value begins
    if (!net.is_grouped) return (head * 3 + part) * e;
    return (part == 0 ? head : part == 1 ? h + head : h + k + head) * e;
  };
  for (const auto& s : sequences) {
    parallel_ranges(s.count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* row = projected + (s.first + t) * width;
        int64_t slot = s.past + t, position = std::min(slot, net.length - 1);
        const float *cos = net.rotary + position * 2 * e, *sin = cos + e;
        for (int64_t head = 0; head < h; ++head) {
          float* to = q + ((s.first + t) * h + head) * e;
          for (int64_t i = 0; i < e; ++i) to[i] = row[from(head, 0) + i] * scale;
          rotate(to, cos, sin, e);
        }
        for (int64_t head = 0; head < k; ++head) {
          float* key = const_cast<float*>(s.keys) + head * s.stride + slot * e;
          float* value = const_cast<float*>(s.values) + head * s.stride + slot * e;
          std::copy(row + from(head, 1), row + from(head, 1) + e, key);
          std::copy(row + from(head, 2), row + from(head, 2) + e, value);
          rotate(key, cos, sin, e);
        }
      }
    });
  }
}

void run_layer(const GlmNetwork& net, int64_t index, const std::vector<Sequence>& sequences, int64_t n, float* x,
               Memory& memory) {
  const GlmLayer& layer = net.layer[index];
  int64_t d = net.hidden, e = net.head_dim, h = net.heads, k = net.kv_heads;
  float* normed = memory.normed.take(n * d);
  float* projected = memory.heads.take(n * (h + 2 * k) * e);
  float* q = memory.q.take(n * h * e);
  float* mixed = memory.mixed.take(n * h * e);
  norm(layer.input_layernorm, x, n, d, net.epsilon, normed);
  linear(normed, n, layer.query_key_value, projected, kWrite, memory.linear);
  place(net, sequences, projected, q);
  const float* prefix = net.prefix + index * 2 * k * net.prefix_length * e;
  Attention shape = {h, k, e, prefix, prefix + k * net.prefix_length * e, net.prefix_length};
  cached_attention(shape, sequences.data(), int64_t(sequences.size()), q, mixed);
  if (net.residual_is_norm) std::copy(normed, normed + n * d, x);
  linear(mixed, n, layer.dense, x, kAdd, memory.linear);
  norm(layer.post_attention_layernorm, x, n, d, net.epsilon, normed);
  float* inner = memory.inner.take(n * net.ffn);
  linear(normed, n, layer.dense_h_to_4h, inner, kSwiglu, memory.linear);
  if (net.residual_is_norm) std::copy(normed, normed + n * d, x);
  linear(inner, n, layer.dense_4h_to_h, x, kAdd, memory.linear);
}

}  // namespace

void* glm_new_workspace() { return new Memory; }
void glm_free_workspace(void* space) { delete static_cast<Memory*>(space); }
void glm_set_threads(int count) { set_threads(count); }
void glm_set_sgemm(void* function) { set_sgemm(reinterpret_cast<Sgemm>(function)); }
int glm_integers_are_fast() { return integers_are_fast(); }

void glm_linear(const float* x, int64_t m, const Linear* w, float* y, void* workspace) {
  linear(x, m, *w, y, kWrite, static_cast<Memory*>(workspace)->linear);
}

// Another result than 0 says that memory was not enough.
int glm_forward(const GlmNetwork* network, const GlmStep* step, void* workspace) try {
  const GlmNetwork& net = *network;
  Memory& memory = *static_cast<Memory*>(workspace);
  int64_t d = net.hidden, stride = step->slots * net.head_dim, n = 0;
  std::vector<int64_t> first(size_t(step->rows), 0);
  std::vector<Sequence> sequences;
  for (int64_t r = 0; r < step->rows; ++r) {
    first[size_t(r)] = n;
    if (step->counts[r] == 0) continue;
    sequences.push_back({n, step->counts[r], step->lengths[r], nullptr, nullptr, stride});
    n += step->counts[r];
  }
  float* x = memory.stream.take(n * d);
  for (int64_t r = 0; r < step->rows; ++r)
    for (int64_t t = 0; t < step->counts[r]; ++t)
      read_row(net.embedding, step->tokens[r * step->width + t], x + (first[size_t(r)] + t) * d);
  for (int64_t i = 0; i < net.layers; ++i) {
    size_t at = 0;
    for (int64_t r = 0; r < step->rows; ++r) {
      if (step->counts[r] == 0) continue;
      int64_t begin = (i * step->rows + r) * net.kv_heads * stride;
      sequences[at].keys = step->keys + begin;
      sequences[at++].values = step->values + begin;
    }
    run_layer(net, i, sequences, n, x, memory);
  }
  if (step->num_wanted == 0) return 0;
  float* wanted = memory.normed.take((n + step->num_wanted) * d) + n * d;
  for (int64_t i = 0; i < step->num_wanted; ++i) {
    int64_t row = step->wanted[i] / step->width, from = first[size_t(row)] + step->wanted[i] % step->width;
    std::copy(x + from * d, x + (from + 1) * d, wanted + i * d);
  }
  if (net.has_final_norm) norm(net.final_layernorm, wanted, step->num_wanted, d, net.epsilon, wanted);
  linear(wanted, step->num_wanted, net.output_layer, step->logits, kWrite, memory.linear);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}
