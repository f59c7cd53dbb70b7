// Rotary positions and causal attention of grouped heads, forward and backward, from rows q | k | v to rows.
// Scores of a few queries at a time stand as (keys, queries): maximum and sum run along memory, and the result is
// already the panel that the next matmul reads. Nothing of the size of all scores is held.
// Shapes: B batch, T tokens, N = B * T, H query heads, K kv heads, G = H / K, E head_dim.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kept.h"
#include "matmul.h"
#include "operators.h"
#include "panels.h"
#include "parallel.h"

using namespace glm;

namespace {

thread_local Kept thread_memory;

struct Shape {
  int64_t batch, tokens, heads, groups, kv_heads, channels, width;
};

// qkv (N, (H + 2 K) E), cos and sin (1, H + 2 K, T, E), rows of all heads (N, H E).
Shape shape_of(const Arguments& given, int cos, int rows) {
  Shape s;
  s.width = given.size(0, 1);
  s.tokens = given.size(cos, 2);
  s.channels = given.size(cos, 3);
  s.batch = given.size(0, 0) / s.tokens;
  s.heads = given.size(rows, 1) / s.channels;
  s.kv_heads = (s.width / s.channels - s.heads) / 2;
  s.groups = s.heads / s.kv_heads;
  return s;
}

// Angles of one head: (T, E), with what the head is scaled by.
struct Angles {
  const float *cos, *sin;
  int64_t channels;

  Angles(const Arguments& given, int at, const Shape& s, int64_t head)
      : cos(given.floats(at) + head * s.tokens * s.channels),
        sin(given.floats(at + 1) + head * s.tokens * s.channels),
        channels(s.channels) {}

  void turn(const float* x, int64_t token, float* out) const {
    const float *c = cos + token * channels, *s = sin + token * channels;
    for (int64_t e = 0; e < channels; e += 2) {
      float a = x[e], b = x[e + 1];
      out[e] = a * c[e] - b * s[e];
      out[e + 1] = b * c[e + 1] + a * s[e + 1];
    }
  }

  void turn_back(const float* x, int64_t token, float* out) const {
    const float *c = cos + token * channels, *s = sin + token * channels;
    for (int64_t e = 0; e < channels; e += 2) {
      float a = x[e], b = x[e + 1];
      out[e] = a * c[e] + b * s[e + 1];
      out[e + 1] = b * c[e + 1] - a * s[e];
    }
  }
};

int64_t rounded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

void pack_rows(const MatmulForm& form, const Vectors& v, int64_t depth, float* out) {
  for (int64_t r = 0; r < v.count; r += form.rows) {
    form.pack_rows(v, r, std::min(form.rows, v.count - r), 0, depth, 1.0f, out + r * depth);
  }
}

void pack_columns(const MatmulForm& form, const Vectors& v, int64_t depth, float* out) {
  for (int64_t r = 0; r < v.count; r += form.columns) {
    form.pack_columns(v, r, std::min(form.columns, v.count - r), 0, depth, 1.0f, out + r * depth);
  }
}

// Panels of rows times one panel of columns: `count` rows of out (count, columns), and more to the end of a panel.
void multiply(const MatmulForm& form, int64_t count, int64_t depth, int64_t panel_depth, const float* rows,
              const float* columns, float* out) {
  for (int64_t r = 0; r < count; r += form.rows) {
    form.multiply(depth, rows + r * panel_depth, columns, out + r * form.columns);
  }
}

// (channels, lanes) -> rows of `channels` numbers, `step` apart, times factor[lane].
void spread(const float* from, int64_t width, int64_t channels, int64_t lanes, const float* factor, float* out,
            int64_t step) {
  for (int64_t e = 0; e < channels; e += kLanes) {
    int64_t some = std::min<int64_t>(kLanes, channels - e);
    for (int64_t l = 0; l < lanes; l += kLanes) {
      Floats block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = i < some ? load(from + (e + i) * width + l) : Floats{};
      transpose(block);
      for (int64_t i = 0; i < std::min<int64_t>(kLanes, lanes - l); ++i) {
        store_some(out + (l + i) * step + e, block[i] * factor[l + i], some);
      }
    }
  }
}

// -1 in the lanes of queries, from number `first` on, that see `key`; missing queries see nothing.
// `from` holds the first key that each query sees.
inline Ints seen_by(int64_t key, int64_t first, int64_t count, const int32_t* from) {
  Ints lane = numbered() + int32_t(first), begins = read<Ints>(from);
  return (lane >= int32_t(key)) & (begins <= int32_t(key)) & (numbered() < int32_t(count));
}

// Where the keys of a block of queries begin: for each query, and, in whole panels, for all of them together.
struct Sight {
  int32_t from[64] = {};
  int64_t begin = 0;

  Sight(const float* starts, int64_t first, int64_t count, int64_t panel) {
    if (starts == nullptr) return;
    int64_t least = first;
    for (int64_t i = 0; i < count; ++i) {
      int64_t start = std::clamp<int64_t>(int64_t(starts[first + i]), 0, first + i);  // a token sees itself
      from[i] = int32_t(start);
      least = std::min(least, start);
    }
    begin = least / panel * panel;
  }
};

// Scores (keys, queries) -> exp(score - highest), 0 where a key is not seen; sums and highest of each query.
// The first row of scores is that of key number sight.begin.
void soften(float* scores, int64_t keys, const Sight& sight, int64_t first, int64_t count, int64_t width,
            float* highest, float* total) {
  for (int64_t l = 0; l < width; l += kLanes) {
    Floats top = splat(-1e30f), sums = {};
    for (int64_t key = 0; key < keys; ++key) {
      Floats v = load(scores + key * width + l);
      top = choose(seen_by(sight.begin + key, first + l, count - l, sight.from + l), larger(v, top), top);
    }
    for (int64_t key = 0; key < keys; ++key) {
      Floats v = exponential(load(scores + key * width + l) - top);
      v = choose(seen_by(sight.begin + key, first + l, count - l, sight.from + l), v, Floats{});
      sums += v;
      store(scores + key * width + l, v);
    }
    store(highest + l, top);
    store(total + l, sums);
  }
}

struct Memory {
  float* next;
  float* take(int64_t count) {
    float* at = next;
    next += rounded(count, kLanes);
    return at;
  }
};

// qkv, cos, sin[, starts (B, T)] -> rows (N, H E), and of each query log(sum(exp(scores))) (B, H, T), at `rows_at` and
// after it.
void attend(const Arguments& given, bool is_packed) {
  int rows_at = is_packed ? 4 : 3;
  Shape s = shape_of(given, 1, rows_at);
  const MatmulForm& form = short_form();
  int64_t e = s.channels, t = s.tokens, wide = form.columns, keys = rounded(t, form.rows), es = rounded(e, form.rows);
  parallel_for(s.batch * s.kv_heads, [&](int64_t task) {
    int64_t b = task / s.kv_heads, kv = task % s.kv_heads;
    Memory memory{thread_memory.floats(t * e + keys * e + es * t + 2 * wide * e + keys * wide + es * wide + 4096)};
    float *k = memory.take(t * e), *k_panels = memory.take(keys * e), *v_panels = memory.take(es * t);
    float *q = memory.take(wide * e), *q_panel = memory.take(wide * e), *scores = memory.take(keys * wide);
    float *mixed = memory.take(es * wide), *highest = memory.take(64), *total = memory.take(64);
    const float* rows = given.floats(0) + b * t * s.width;
    const float *keys_from = rows + (s.heads + kv) * e, *values = keys_from + s.kv_heads * e;
    Angles of_keys(given, 1, s, s.heads + kv);
    for (int64_t i = 0; i < t; ++i) of_keys.turn(keys_from + i * s.width, i, k + i * e);
    pack_rows(form, rows_of(k, t, e), e, k_panels);
    pack_rows(form, {values, e, 1, s.width}, t, v_panels);
    for (int64_t head = kv * s.groups; head < (kv + 1) * s.groups; ++head) {
      Angles of_queries(given, 1, s, head);
      float* out = given.floats(rows_at) + b * t * s.heads * e + head * e;
      float* logs = given.floats(rows_at + 1) + (b * s.heads + head) * t;
      for (int64_t first = 0; first < t; first += wide) {
        int64_t count = std::min(wide, t - first);
        Sight sight(is_packed ? given.floats(3) + b * t : nullptr, first, count, form.rows);
        int64_t past = first + count - sight.begin;
        for (int64_t i = 0; i < count; ++i)
          of_queries.turn(rows + (first + i) * s.width + head * e, first + i, q + i * e);
        pack_columns(form, rows_of(q, count, e), e, q_panel);
        multiply(form, past, e, e, k_panels + sight.begin * e, q_panel, scores);
        soften(scores, past, sight, first, count, wide, highest, total);
        multiply(form, e, past, t, v_panels + sight.begin * form.rows, scores, mixed);
        for (int64_t i = 0; i < count; ++i) {
          logs[first + i] = highest[i] + std::log(total[i]);
          total[i] = 1.0f / total[i];
        }
        spread(mixed, wide, e, count, total, out + first * s.heads * e, s.heads * e);
      }
    }
  });
}

// qkv, cos, sin[, starts], rows, logs, and the rows' gradient -> the gradient of qkv.
void attend_back(const Arguments& given, bool is_packed) {
  int rows_at = is_packed ? 4 : 3;
  Shape s = shape_of(given, 1, rows_at);
  const MatmulForm& form = float_form();
  int64_t e = s.channels, t = s.tokens, wide = form.columns, keys = rounded(t, form.rows), es = rounded(e, form.rows);
  int64_t ew = rounded(e, wide), row = s.heads * e;
  parallel_for(s.batch * s.kv_heads, [&](int64_t task) {
    int64_t b = task / s.kv_heads, kv = task % s.kv_heads;
    Memory memory{thread_memory.floats(3 * t * e + 2 * keys * e + es * t + 4 * wide * e + 2 * ew * wide +
                                       3 * keys * wide + es * wide + 8192)};
    float *k = memory.take(t * e), *dk = memory.take(t * e), *dv = memory.take(t * e);
    float *k_panels = memory.take(keys * e), *v_panels = memory.take(keys * e), *k_across = memory.take(es * t);
    float *q = memory.take(wide * e), *dq = memory.take(wide * e), *q_panel = memory.take(wide * e);
    float *d_panel = memory.take(wide * e), *q_across = memory.take(ew * wide), *d_across = memory.take(ew * wide);
    float *probs = memory.take(keys * wide), *slopes = memory.take(keys * wide), *turned = memory.take(keys * wide);
    float *mixed = memory.take(es * wide), *tile = memory.take(16 * 64), *ones = memory.take(64);
    float *own = memory.take(64), *log = memory.take(64);
    const float* rows = given.floats(0) + b * t * s.width;
    const float *keys_from = rows + (s.heads + kv) * e, *values = keys_from + s.kv_heads * e;
    float* grads = given.floats(rows_at + 3) + b * t * s.width;
    Angles of_keys(given, 1, s, s.heads + kv);
    for (int64_t i = 0; i < t; ++i) of_keys.turn(keys_from + i * s.width, i, k + i * e);
    pack_rows(form, rows_of(k, t, e), e, k_panels);
    pack_rows(form, {values, t, s.width, 1}, e, v_panels);
    pack_rows(form, {k, e, 1, e}, t, k_across);
    std::fill_n(dk, t * e, 0.0f);
    std::fill_n(dv, t * e, 0.0f);
    std::fill_n(ones, 64, 1.0f);

    // into (keys, E) += weights (keys, queries) times what `across` holds of the queries
    auto add_products = [&](const float* weights, const float* across, int64_t past, int64_t count, float* into) {
      pack_rows(form, {weights, past, wide, 1}, count, turned);
      for (int64_t r = 0; r < past; r += form.rows) {
        for (int64_t c = 0; c < e; c += wide) {
          form.multiply(count, turned + r * count, across + c * count, tile);
          for (int64_t i = 0; i < std::min(form.rows, past - r); ++i) {
            float* sums = into + (r + i) * e + c;
            for (int64_t j = 0; j < std::min(wide, e - c); ++j) sums[j] += tile[i * wide + j];
          }
        }
      }
    };

    for (int64_t head = kv * s.groups; head < (kv + 1) * s.groups; ++head) {
      Angles of_queries(given, 1, s, head);
      const float* out = given.floats(rows_at) + b * t * row + head * e;
      const float* dout = given.floats(rows_at + 2) + b * t * row + head * e;
      const float* logs = given.floats(rows_at + 1) + (b * s.heads + head) * t;
      for (int64_t first = 0; first < t; first += wide) {
        int64_t count = std::min(wide, t - first);
        Sight sight(is_packed ? given.floats(3) + b * t : nullptr, first, count, form.rows);
        int64_t past = first + count - sight.begin;
        std::fill_n(own, 64, 0.0f);
        std::fill_n(log, 64, 0.0f);
        for (int64_t i = 0; i < count; ++i) {
          of_queries.turn(rows + (first + i) * s.width + head * e, first + i, q + i * e);
          const float *o = out + (first + i) * row, *d = dout + (first + i) * row;
          for (int64_t j = 0; j < e; ++j) own[i] += o[j] * d[j];
          log[i] = logs[first + i];
        }
        pack_columns(form, rows_of(q, count, e), e, q_panel);
        pack_columns(form, {dout + first * row, count, row, 1}, e, d_panel);
        pack_columns(form, {q, e, 1, e}, count, q_across);
        pack_columns(form, {dout + first * row, e, 1, row}, count, d_across);
        multiply(form, past, e, e, k_panels + sight.begin * e, q_panel, probs);
        multiply(form, past, e, e, v_panels + sight.begin * e, d_panel, slopes);
        for (int64_t key = 0; key < past; ++key) {
          for (int64_t l = 0; l < wide; l += kLanes) {
            float *p = probs + key * wide + l, *d = slopes + key * wide + l;
            Floats prob = exponential(load(p) - load(log + l));
            prob = choose(seen_by(sight.begin + key, first + l, count - l, sight.from + l), prob, Floats{});
            store(p, prob);
            store(d, prob * (load(d) - load(own + l)));
          }
        }
        multiply(form, e, past, t, k_across + sight.begin * form.rows, slopes, mixed);
        spread(mixed, wide, e, count, ones, dq, e);
        for (int64_t i = 0; i < count; ++i) {
          of_queries.turn_back(dq + i * e, first + i, grads + (first + i) * s.width + head * e);
        }
        add_products(probs, d_across, past, count, dv + sight.begin * e);
        add_products(slopes, q_across, past, count, dk + sight.begin * e);
      }
    }
    for (int64_t i = 0; i < t; ++i) {
      float* to = grads + i * s.width + (s.heads + kv) * e;
      of_keys.turn_back(dk + i * e, i, to);
      std::memcpy(to + s.kv_heads * e, dv + i * e, size_t(e) * sizeof(float));
    }
  });
}

}  // namespace

GLM_OPERATOR(GlmAttention) { attend(given, false); }

GLM_OPERATOR(GlmPackedAttention) { attend(given, true); }

GLM_OPERATOR(GlmAttentionBack) { attend_back(given, false); }

GLM_OPERATOR(GlmPackedAttentionBack) { attend_back(given, true); }
