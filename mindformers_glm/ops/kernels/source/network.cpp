// See network.h: token ids in, logits of the wanted tokens out.
#include "network.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cached_attention.h"
#include "parallel.h"

using namespace glm;

namespace {

struct Memory {
  Workspace linear;
  std::vector<Share> shares;  // of the step's tokens
  Buffer stream, normed, heads, q, mixed, inner, branch;
};

constexpr int64_t kNumbersTogether = 4096;  // that a thread works on at least

int64_t rows_together(int64_t numbers) { return std::max<int64_t>(1, kNumbersTogether / numbers); }

void norm(const GlmNorm& n, const float* x, int64_t rows, int64_t d, float epsilon, float* out) {
  static thread_local std::vector<float> weight, bias;
  weight.resize(size_t(d));
  bias.assign(size_t(d), 0.0f);
  read_numbers(n.weight, n.kind, d, weight.data());
  if (n.bias != nullptr) read_numbers(n.bias, n.kind, d, bias.data());
  const float *w = weight.data(), *b = bias.data();
  bool centred = n.bias != nullptr;
  parallel_ranges(rows, rows_together(d), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x + t * d;
      float mean = 0;
      if (centred) {
        for (int64_t i = 0; i < d; ++i) mean += row[i];
        mean /= float(d);
      }
      Doubles total = {};
      int64_t i = 0;
      for (; i + kLanes <= d; i += kLanes) total += squares(load(row + i) - mean);
      double square = sum(total);
      for (; i < d; ++i) square += double(row[i] - mean) * double(row[i] - mean);
      float scale = float(1.0 / std::sqrt(square / double(d) + double(epsilon)));
      for (i = 0; i + kLanes <= d; i += kLanes)
        store(out + t * d + i, (load(row + i) - mean) * scale * load(w + i) + load(b + i));
      for (; i < d; ++i) out[t * d + i] = (row[i] - mean) * scale * w[i] + b[i];
    }
  });
}

void rotate(float* head, const float* cos, const float* sin, int64_t turned) {
  for (int64_t i = 0; i < turned; i += 2) {
    float even = head[i], odd = head[i + 1];
    head[i] = even * cos[i] - odd * sin[i];
    head[i + 1] = odd * cos[i] + even * sin[i];
  }
}

// Projections (N, (H + 2 K) E) -> scaled queries (N, H E) in `q`, keys and values in the cache of one layer.
void place(const GlmNetwork& net, const CacheForm& form, int64_t layer, const std::vector<Sequence>& sequences,
           const std::vector<int32_t>& owner, const float* projected, float* q) {
  int64_t e = net.head_dim, h = net.heads, k = net.kv_heads, width = (h + 2 * k) * e;
  float scale = 1.0f / std::sqrt(float(e));
  auto from = [&](int64_t head, int part) {  // where a head's query, key or value begins
    if (!net.is_grouped) return (head * 3 + part) * e;
    return (part == 0 ? head : part == 1 ? h + head : h + k + head) * e;
  };
  parallel_ranges(int64_t(owner.size()), rows_together(width), [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> key;
    key.resize(size_t(e));
    for (int64_t t = begin; t < end; ++t) {
      const Sequence& s = sequences[size_t(owner[size_t(t)])];
      const float* row = projected + t * width;
      int64_t slot = s.past + t - s.first, position = std::min(slot, net.length - 1);
      const float *cos = net.rotary + position * 2 * e, *sin = cos + e;
      for (int64_t head = 0; head < h; ++head) {
        float* to = q + (t * h + head) * e;
        for (int64_t i = 0; i < e; ++i) to[i] = row[from(head, 0) + i] * scale;
        rotate(to, cos, sin, net.rotary_dim);
      }
      for (int64_t head = 0; head < k; ++head) {
        std::copy(row + from(head, 1), row + from(head, 1) + e, key.data());
        rotate(key.data(), cos, sin, net.rotary_dim);
        put_in_cache(form, form.head(s.blocks[slot / kSlots], layer, head), slot % kSlots, key.data(),
                     row + from(head, 2));
      }
    }
  });
}

// x += norm(branch (N, D) = from W^T), or without a norm x += from W^T.
void add_branch(const GlmNetwork& net, const float* from, int64_t n, const Linear& weight, const GlmNorm& after,
                float* x, Memory& memory) {
  if (after.weight == nullptr) {
    linear(from, n, weight, x, kAdd, memory.linear, &memory.shares);
    return;
  }
  float* branch = memory.branch.take(n * net.hidden);
  linear(from, n, weight, branch, kWrite, memory.linear, &memory.shares);
  norm(after, branch, n, net.hidden, net.epsilon, branch);
  for (int64_t i = 0; i < n * net.hidden; ++i) x[i] += branch[i];
}

void run_layer(const GlmNetwork& net, const CacheForm& form, int64_t index, const std::vector<Sequence>& sequences,
               const std::vector<int32_t>& owner, float* x, Memory& memory) {
  int64_t n = int64_t(owner.size());
  const GlmLayer& layer = net.layer[index];
  int64_t d = net.hidden, e = net.head_dim, h = net.heads, k = net.kv_heads;
  float* normed = memory.normed.take(n * d);
  float* projected = memory.heads.take(n * (h + 2 * k) * e);
  float* q = memory.q.take(n * h * e);
  float* mixed = memory.mixed.take(n * h * e);
  norm(layer.attention_norm, x, n, d, net.epsilon, normed);
  linear(normed, n, layer.qkv, projected, kWrite, memory.linear, &memory.shares);
  place(net, form, index, sequences, owner, projected, q);
  const float* prefix = net.prefix + index * 2 * k * net.prefix_length * e;
  Attention shape = {
      h, form, index, prefix, prefix + k * net.prefix_length * e, net.prefix_length, memory.linear.in_doubles};
  cached_attention(shape, sequences.data(), int64_t(sequences.size()), q, mixed);
  if (net.residual_is_norm) std::copy(normed, normed + n * d, x);
  add_branch(net, mixed, n, layer.out, layer.after_attention, x, memory);
  norm(layer.mlp_norm, x, n, d, net.epsilon, normed);
  float* inner = memory.inner.take(n * net.ffn);
  linear(normed, n, layer.gate_up, inner, kSwiglu, memory.linear, &memory.shares);
  if (net.residual_is_norm) std::copy(normed, normed + n * d, x);
  add_branch(net, inner, n, layer.down, layer.after_mlp, x, memory);
}

// Whether layers round what flows into them to steps of one size, so that each number's last bits may count.
bool rounds_inputs(const GlmNetwork& net) {
  for (int64_t i = 0; i < net.layers; ++i)
    for (const Linear* w : {&net.layer[i].qkv, &net.layer[i].out, &net.layer[i].gate_up, &net.layer[i].down})
      if (w->kind == kW8A8 && w->input_scale > 0) return true;
  return false;
}

CacheForm cache_form(const GlmNetwork& net, int32_t kind) {
  return {kept_kind(kind, net.head_dim, rounds_inputs(net)), net.kv_heads, net.head_dim};
}

// Adds tokens of an adapter to the shares; neighbours of the same become one.
void share(std::vector<Share>& shares, int64_t begin, int64_t count, int32_t adapter) {
  if (!shares.empty() && shares.back().adapter == adapter) {
    shares.back().end = begin + count;
  } else {
    shares.push_back({begin, begin + count, adapter});
  }
}

}  // namespace

void* glm_new_workspace() { return new Memory; }
void glm_free_workspace(void* space) { delete static_cast<Memory*>(space); }
void glm_set_threads(int count) { set_threads(count); }

void glm_linear(const float* x, int64_t m, const Linear* w, float* y, void* workspace) {
  linear(x, m, *w, y, kWrite, static_cast<Memory*>(workspace)->linear);
}

int glm_forward(const GlmNetwork* network, const GlmStep* step, void* workspace) try {
  const GlmNetwork& net = *network;
  Memory& memory = *static_cast<Memory*>(workspace);
  CacheForm form = cache_form(net, step->cache_kind);
  int64_t d = net.hidden, n = 0;
  std::vector<int64_t> first(size_t(step->sequences), 0);
  std::vector<Sequence> sequences;
  std::vector<int32_t> owner;  // of every token, its sequence
  auto adapter = [&](int64_t r) { return step->adapters == nullptr ? 0 : step->adapters[r]; };
  std::vector<int64_t> order(size_t(step->sequences), 0);  // sequences of an adapter stand together
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return adapter(a) < adapter(b); });
  memory.shares.clear();
  for (int64_t r : order) {
    first[size_t(r)] = n;
    if (step->counts[r] == 0) continue;
    for (int64_t t = 0; t < step->counts[r]; ++t) {
      int32_t id = step->tokens[r * step->width + t];
      if (id < 0 || id >= net.vocabulary) return 2;
    }
    owner.insert(owner.end(), size_t(step->counts[r]), int32_t(sequences.size()));
    sequences.push_back({n, step->counts[r], step->lengths[r], step->blocks + r * step->most_blocks});
    share(memory.shares, n, step->counts[r], adapter(r));
    n += step->counts[r];
  }
  memory.linear.in_doubles = rounds_inputs(net);
  float* x = memory.stream.take(n * d);
  for (int64_t r = 0; r < step->sequences; ++r)
    for (int64_t t = 0; t < step->counts[r]; ++t)
      read_row(net.embedding, step->tokens[r * step->width + t], x + (first[size_t(r)] + t) * d);
  for (int64_t i = 0; i < net.layers; ++i) run_layer(net, form, i, sequences, owner, x, memory);
  if (step->num_wanted == 0) return 0;
  float* wanted = memory.normed.take((n + step->num_wanted) * d) + n * d;
  memory.shares.clear();
  for (int64_t i = 0; i < step->num_wanted; ++i) {
    int64_t sequence = step->wanted[i] / step->width, from = first[size_t(sequence)] + step->wanted[i] % step->width;
    std::copy(x + from * d, x + (from + 1) * d, wanted + i * d);
    share(memory.shares, i, 1, adapter(sequence));
  }
  memory.linear.in_doubles = false;  // nothing is rounded to steps after the output layer
  if (net.has_final_norm) norm(net.final_norm, wanted, step->num_wanted, d, net.epsilon, wanted);
  linear(wanted, step->num_wanted, net.head, step->logits, kWrite, memory.linear, &memory.shares);
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}

int64_t glm_tokens_as_alone(const GlmNetwork* network) { return tokens_as_alone(rounds_inputs(*network)); }

int64_t glm_block_bytes(const GlmNetwork* network, int32_t cache_kind) {
  CacheForm form = cache_form(*network, cache_kind);
  return network->layers * form.kv_heads * form.head_bytes();
}

void glm_read_cache(const GlmNetwork* network, int32_t cache_kind, char* const* blocks, int64_t count, float* keys,
                    float* values) {
  CacheForm form = cache_form(*network, cache_kind);
  for (int64_t i = 0; i < network->layers; ++i)
    for (int64_t head = 0; head < form.kv_heads; ++head)
      for (int64_t s = 0; s < count; ++s, keys += form.head_dim, values += form.head_dim)
        read_from_cache(form, form.head(blocks[s / kSlots], i, head), s % kSlots, keys, values);
}
