#include "cached_attention.h"

#include <algorithm>
#include <vector>

#include "panels.h"
#include "parallel.h"
#include "vectors.h"

namespace glm {
namespace {

constexpr int64_t kKeys = 64;      // keys of one block
constexpr int64_t kQueries = 128;  // query rows that share the turning of a block
constexpr int kTile = 4;
constexpr float kLowest = -1e30f;

// 16 x 16 numbers at `from` (rows `stride` apart) turned into columns at `to` (rows kKeys apart).
void turn(const float* from, int64_t stride, int64_t rows, float* to) {
  Floats block[16];
  for (int64_t i = 0; i < 16; ++i) block[i] = i < rows ? load(from + i * stride) : Floats{};
  transpose(block);
  for (int i = 0; i < 16; ++i) store(to + i * kKeys, block[i]);
}

// keys (count, E) -> (E, 64), 0 beyond count.
void turn_block(const float* keys, int64_t count, int64_t e, float* to) {
  int64_t whole = e / 16 * 16;
  for (int64_t s = 0; s < kKeys; s += 16) {
    int64_t rows = std::max<int64_t>(0, std::min<int64_t>(16, count - s));
    for (int64_t c = 0; c < whole; c += 16) turn(keys + s * e + c, e, rows, to + c * kKeys + s);
    for (int64_t c = whole; c < e; ++c)
      for (int64_t i = 0; i < 16; ++i) to[c * kKeys + s + i] = i < rows ? keys[(s + i) * e + c] : 0.0f;
  }
}

struct Scratch {
  std::vector<float> turned, weights, mixed, queries;
  std::vector<float> top, total;
};

template <int kRows>
void scores(const float* q, int64_t e, const float* turned, float* out) {
  Floats found[kRows][4] = {};
  for (int64_t c = 0; c < e; ++c) {
    Floats keys[4];
    for (int j = 0; j < 4; ++j) keys[j] = load(turned + c * kKeys + j * kLanes);
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < 4; ++j) found[i][j] += keys[j] * q[i * e + c];
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < 4; ++j) store(out + i * kKeys + j * kLanes, found[i][j]);
}

// mixed (kRows, E) += weights (kRows, count) values (count, E), kParts times 16 columns from column c on.
template <int kRows, int kParts>
void mix_columns(const float* weights, const float* values, int64_t count, int64_t e, int64_t c, float* mixed) {
  Floats sum[kRows][kParts];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kParts; ++j) sum[i][j] = load(mixed + i * e + c + j * kLanes);
  for (int64_t s = 0; s < count; ++s)
    for (int j = 0; j < kParts; ++j) {
      Floats value = load(values + s * e + c + j * kLanes);
      for (int i = 0; i < kRows; ++i) sum[i][j] += value * weights[i * kKeys + s];
    }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kParts; ++j) store(mixed + i * e + c + j * kLanes, sum[i][j]);
}

template <int kRows>
void mix(const float* weights, const float* values, int64_t count, int64_t e, float* mixed) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= e; c += 4 * kLanes) mix_columns<kRows, 4>(weights, values, count, e, c, mixed);
  for (; c + kLanes <= e; c += kLanes) mix_columns<kRows, 1>(weights, values, count, e, c, mixed);
  if (c == e) return;
  for (int i = 0; i < kRows; ++i) {
    Floats sum = load_some(mixed + i * e + c, e - c);
    for (int64_t s = 0; s < count; ++s) sum += load_some(values + s * e + c, e - c) * weights[i * kKeys + s];
    store_some(mixed + i * e + c, sum, e - c);
  }
}

// Queries [first, first + rows) of one kv head: token t = row / group, head = row % group.
class Item {
 public:
  Item(const Attention& shape, int64_t heads, Scratch& space) : e_(shape.head_dim), group_(heads), space_(space) {}

  void begin(const float* q, int64_t stride, int64_t tokens) {
    rows_ = tokens * group_;
    auto& s = space_;
    s.turned.resize(size_t(e_ * kKeys));
    s.weights.resize(size_t(rows_ * kKeys));
    s.queries.resize(size_t(rows_ * e_));
    s.mixed.assign(size_t(rows_ * e_), 0.0f);
    s.top.assign(size_t(rows_), kLowest);
    s.total.assign(size_t(rows_), 0.0f);
    for (int64_t t = 0; t < tokens; ++t)
      std::copy(q + t * stride, q + t * stride + group_ * e_, s.queries.data() + t * group_ * e_);
  }

  // Keys and values (count, E), of which token t sees the first `seen(t)`.
  template <class Seen>
  void add(const float* keys, const float* values, int64_t count, Seen seen) {
    for (int64_t s = 0; s < count; s += kKeys) {
      int64_t here = std::min(kKeys, count - s);
      turn_block(keys + s * e_, here, e_, space_.turned.data());
      all_tiles([&](int64_t row, auto tile) {
        scores<tile()>(space_.queries.data() + row * e_, e_, space_.turned.data(), space_.weights.data() + row * kKeys);
      });
      for (int64_t row = 0; row < rows_; ++row) weigh(row, std::min(here, seen(row / group_) - s));
      all_tiles([&](int64_t row, auto tile) {
        mix<tile()>(space_.weights.data() + row * kKeys, values + s * e_, here, e_, space_.mixed.data() + row * e_);
      });
    }
  }

  void end(float* out, int64_t stride) {
    for (int64_t row = 0; row < rows_; ++row) {
      float inverse = 1.0f / space_.total[size_t(row)];
      float* to = out + row / group_ * stride + row % group_ * e_;
      for (int64_t c = 0; c < e_; ++c) to[c] = space_.mixed[size_t(row * e_ + c)] * inverse;
    }
  }

 private:
  template <class Work>
  void all_tiles(Work work) {
    int64_t row = 0;
    for (; row + kTile <= rows_; row += kTile) work(row, std::integral_constant<int, kTile>());
    for (; row < rows_; ++row) work(row, std::integral_constant<int, 1>());
  }

  // Scores of a row become weights e^(score - top), of which the first `seen` count.
  void weigh(int64_t row, int64_t seen) {
    float* w = space_.weights.data() + row * kKeys;
    for (int64_t s = std::max<int64_t>(0, seen); s < kKeys; ++s) w[s] = kLowest;
    Floats best = load(w);
    for (int j = 1; j < 4; ++j) best = larger(best, load(w + j * kLanes));
    float old = space_.top[size_t(row)], top = std::max(old, highest(best));
    Floats sum = {};
    for (int j = 0; j < 4; ++j) {
      Floats score = load(w + j * kLanes), weight = exponential(score - top);
      weight = score <= kLowest ? Floats{} : weight;
      store(w + j * kLanes, weight);
      sum += weight;
    }
    if (top > old) {
      float shrink = std::exp(old - top);
      space_.total[size_t(row)] *= shrink;
      float* mixed = space_.mixed.data() + row * e_;
      for (int64_t c = 0; c < e_; ++c) mixed[c] *= shrink;
      space_.top[size_t(row)] = top;
    }
    space_.total[size_t(row)] += glm::sum(sum);
  }

  int64_t e_, group_, rows_ = 0;
  Scratch& space_;
};

}  // namespace

void cached_attention(const Attention& shape, const Sequence* sequences, int64_t count, const float* q, float* out) {
  struct Task {
    const Sequence* sequence;
    int64_t kv_head, head, heads, token, tokens;
  };
  std::vector<Task> tasks;
  int64_t e = shape.head_dim, group = shape.heads / shape.kv_heads, stride = shape.heads * e;
  int64_t parts = 1, items = count * shape.kv_heads;
  while (items * parts < threads() && group % (parts * 2) == 0) parts *= 2;
  int64_t heads = group / parts, block = std::max<int64_t>(1, kQueries / heads);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t t = 0; t < sequences[i].count; t += block)
      for (int64_t k = 0; k < shape.kv_heads; ++k)
        for (int64_t p = 0; p < parts; ++p)
          tasks.push_back({&sequences[i], k, k * group + p * heads, heads, t, std::min(block, sequences[i].count - t)});
  parallel_for(int64_t(tasks.size()), [&](int64_t i) {
    static thread_local Scratch space;
    const Task& task = tasks[size_t(i)];
    const Sequence& s = *task.sequence;
    int64_t at = (s.first + task.token) * stride + task.head * e, past = s.past + task.token;
    Item item(shape, task.heads, space);
    item.begin(q + at, stride, task.tokens);
    if (shape.prefix > 0) {
      int64_t skip = task.kv_head * shape.prefix * e;
      item.add(shape.prefix_keys + skip, shape.prefix_values + skip, shape.prefix, [&](int64_t) { return shape.prefix; });
    }
    item.add(s.keys + task.kv_head * s.stride, s.values + task.kv_head * s.stride, past + task.tokens,
             [&](int64_t t) { return past + t + 1; });
    item.end(out + at, stride);
  });
}

}  // namespace glm
