#include "cached_attention.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "panels.h"
#include "parallel.h"
#include "whole_blocks.h"

namespace glm {
namespace {

constexpr int64_t kQueries = 128, kMostQueries = 512;  // queries that share the reading of a block
constexpr float kLowest = -1e30f;
constexpr int64_t kWidenedFor = 32;  // queries
constexpr int64_t kFewTogether = 8;  // products that are added one after the other where sums are short
#if defined(__AVX512F__)
constexpr int kTile = 8, kWide = 2;  // queries by sixteens of keys or channels: sums that fit into registers
#else
constexpr int kTile = 2, kWide = 2;
#endif

// 16 x 16 numbers at `from` (rows `stride` apart) turned into columns at `to` (rows kSlots apart).
void turn(const float* from, int64_t stride, int64_t rows, float* to) {
  Floats block[16];
  for (int64_t i = 0; i < 16; ++i) block[i] = i < rows ? load(from + i * stride) : Floats{};
  transpose(block);
  for (int i = 0; i < 16; ++i) store(to + i * kSlots, block[i]);
}

// keys (count, E) -> (E, 64), 0 beyond count.
void turn_block(const float* keys, int64_t count, int64_t e, float* to) {
  int64_t whole = e / 16 * 16;
  for (int64_t s = 0; s < kSlots; s += 16) {
    int64_t rows = std::max<int64_t>(0, std::min<int64_t>(16, count - s));
    for (int64_t c = 0; c < whole; c += 16) turn(keys + s * e + c, e, rows, to + c * kSlots + s);
    for (int64_t c = whole; c < e; ++c)
      for (int64_t i = 0; i < 16; ++i) to[c * kSlots + s + i] = i < rows ? keys[(s + i) * e + c] : 0.0f;
  }
}

struct Scratch {
  std::vector<float> turned, weights, mixed, queries, wide;
  std::vector<float> top, total;
  std::vector<int16_t> whole_queries, whole_block;
  std::vector<float> query_scales;
};

// Whether blocks are made whole numbers first (whole_blocks.h).
#if defined(GLM_WHOLE_BLOCKS)
bool takes_whole(const Attention& shape) {
  return shape.form.kind == kWhole || (shape.form.kind == kInt8 && shape.form.head_dim % 32 == 0 && !shape.short_sums);
}
#else
bool takes_whole(const Attention&) { return false; }
#endif

// out (kRows, 64) = q (kRows, E) keys (E, 64), times the scale of each slot where there is one. `together` products are
// added one after the other, then such sums are.
template <class Format, int kRows>
void scores(const float* q, int64_t e, const typename Format::Stored* keys, const float* scale, int64_t together,
            float* out) {
  for (int64_t s = 0; s < kSlots; s += kWide * kLanes) {
    for (int64_t begin = 0; begin < e; begin += together) {
      int64_t end = std::min(e, begin + together);
      Floats found[kRows][kWide] = {};
      for (int64_t c = begin; c < end; ++c) {
        Floats read[kWide];
        for (int j = 0; j < kWide; ++j) read[j] = Format::read(keys + c * kSlots + s + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i)
          for (int j = 0; j < kWide; ++j) found[i][j] += read[j] * q[i * e + c];
      }
      for (int i = 0; i < kRows; ++i) {
        for (int j = 0; j < kWide; ++j) {
          float* to = out + i * kSlots + s + j * kLanes;
          Floats v = begin == 0 ? found[i][j] : load(to) + found[i][j];
          if (scale != nullptr && end == e) v *= load(scale + s + j * kLanes);
          store(to, v);
        }
      }
    }
  }
}

// mixed (kRows, E) += weights (kRows, count) values (count, E), kParts times 16 columns from column c on, `together`
// values at a time.
template <class Format, int kRows, int kParts>
void mix_columns(const float* weights, const typename Format::Stored* values, int64_t count, int64_t e, int64_t c,
                 int64_t together, float* mixed) {
  for (int64_t begin = 0; begin < count; begin += together) {
    int64_t end = std::min(count, begin + together);
    Floats sum[kRows][kParts] = {};
    for (int64_t s = begin; s < end; ++s) {
      Floats value[kParts];
      for (int j = 0; j < kParts; ++j) value[j] = Format::read(values + s * e + c + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i)
        for (int j = 0; j < kParts; ++j) sum[i][j] += value[j] * weights[i * kSlots + s];
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kParts; ++j) {
        float* to = mixed + i * e + c + j * kLanes;
        store(to, load(to) + sum[i][j]);
      }
    }
  }
}

template <class Format, int kRows>
void mix(const float* weights, const typename Format::Stored* values, int64_t count, int64_t e, int64_t together,
         float* mixed) {
  int64_t c = 0;
  for (; c + kWide * kLanes <= e; c += kWide * kLanes)
    mix_columns<Format, kRows, kWide>(weights, values, count, e, c, together, mixed);
  for (; c + kLanes <= e; c += kLanes) mix_columns<Format, kRows, 1>(weights, values, count, e, c, together, mixed);
  if (c == e) return;
  Floats sum[kRows];
  for (int i = 0; i < kRows; ++i) sum[i] = load_some(mixed + i * e + c, e - c);
  for (int64_t s = 0; s < count; ++s) {
    typename Format::Stored some[kLanes] = {};
    std::memcpy(some, values + s * e + c, size_t(e - c) * sizeof some[0]);
    Floats value = Format::read(some);
    for (int i = 0; i < kRows; ++i) sum[i] += value * weights[i * kSlots + s];
  }
  for (int i = 0; i < kRows; ++i) store_some(mixed + i * e + c, sum[i], e - c);
}

// Queries [first, first + rows) of one kv head: token t = row / group, head = row % group.
class Item {
 public:
  Item(const Attention& shape, int64_t heads, Scratch& space)
      : e_(shape.form.head_dim),
        group_(heads),
        together_(shape.short_sums ? kFewTogether : kSlots),
        whole_(takes_whole(shape)),
        space_(space) {}

  void begin(const float* q, int64_t stride, int64_t tokens) {
    rows_ = tokens * group_;
    auto& s = space_;
    s.weights.resize(size_t(rows_ * kSlots));
    s.queries.resize(size_t(rows_ * e_));
    s.mixed.assign(size_t(rows_ * e_), 0.0f);
    s.top.assign(size_t(rows_), kLowest);
    s.total.assign(size_t(rows_ * kLanes), 0.0f);
    for (int64_t t = 0; t < tokens; ++t)
      std::copy(q + t * stride, q + t * stride + group_ * e_, s.queries.data() + t * group_ * e_);
#if defined(GLM_WHOLE_BLOCKS)
    if (!whole_) return;
    s.whole_queries.resize(size_t(rows_ * e_));
    s.query_scales.resize(size_t(rows_));
    for (int64_t row = 0; row < rows_; ++row)
      s.query_scales[size_t(row)] = whole_vector(s.queries.data() + row * e_, e_, s.whole_queries.data() + row * e_);
#endif
  }

  // Keys (E, 64) and values (64, E), the first `count` of which are there; token t sees the first `seen(t)`.
  template <class Format, class Seen>
  void add(const typename Format::Stored* keys, const typename Format::Stored* values, const float* scales,
           int64_t count, Seen seen) {
    if constexpr (!std::is_same_v<typename Format::Stored, float>) {
      if (rows_ >= kWidenedFor) {  // read by so many tiles that they are made floats once
        int64_t part = kSlots * e_;
        space_.wide.resize(size_t(2 * part));
        float* wide = space_.wide.data();
        for (int64_t i = 0; i < part; i += kLanes) store(wide + i, Format::read(keys + i));
        for (int64_t i = 0; i < part; i += kLanes) store(wide + part + i, Format::read(values + i));
        return add<Float32>(wide, wide + part, scales, count, seen);
      }
    }
    all_tiles([&](int64_t row, auto tile) {
      int64_t together = together_ < kSlots ? together_ : e_;
      scores<Format, tile()>(space_.queries.data() + row * e_, e_, keys, scales, together,
                             space_.weights.data() + row * kSlots);
    });
    const float* value_scales = scales == nullptr ? nullptr : scales + kSlots;
    for (int64_t row = 0; row < rows_; ++row) weigh(row, std::min(count, seen(row / group_)), count, value_scales);
    all_tiles([&](int64_t row, auto tile) {
      mix<Format, tile()>(space_.weights.data() + row * kSlots, values, count, e_, together_,
                          space_.mixed.data() + row * e_);
    });
  }

#if defined(GLM_WHOLE_BLOCKS)
  // The same for the block of a cache that is multiplied in whole numbers; `next` is memory that is read next.
  template <class Seen>
  void add_whole(const CacheForm& form, const char* head, int64_t count, NextLines next, Seen seen) {
    WholeBlock block = whole_block(form, head);
    all_tiles([&](int64_t first, auto tile) {
      int64_t there[tile()];
      for (int i = 0; i < tile(); ++i) there[i] = std::clamp<int64_t>(seen((first + i) / group_), 0, count);
      if (next.there()) {
        add_whole_tile<tile(), true>(block, first, there, next);
      } else {
        add_whole_tile<tile(), false>(block, first, there, next);
      }
    });
  }
#endif

  // The same for rows of keys (count, E).
  void add_prefix(const float* keys, const float* values, int64_t count) {
    space_.turned.resize(size_t(e_ * kSlots));
    for (int64_t s = 0; s < count; s += kSlots) {
      int64_t here = std::min(kSlots, count - s);
      turn_block(keys + s * e_, here, e_, space_.turned.data());
      add<Float32>(space_.turned.data(), values + s * e_, nullptr, here, [&](int64_t) { return here; });
    }
  }

  void end(float* out, int64_t stride) {
    for (int64_t row = 0; row < rows_; ++row) {
      float inverse = 1.0f / glm::sum(load(space_.total.data() + row * kLanes));
      float* to = out + row / group_ * stride + row % group_ * e_;
      for (int64_t c = 0; c < e_; ++c) to[c] = space_.mixed[size_t(row * e_ + c)] * inverse;
    }
  }

 private:
  template <class Work>
  void all_tiles(Work work) {
    int64_t row = 0;
    for (; row + kTile <= rows_; row += kTile) work(row, std::integral_constant<int, kTile>());
    for (; row + kTile / 2 <= rows_; row += kTile / 2) work(row, std::integral_constant<int, kTile / 2>());
    for (; row < rows_; ++row) work(row, std::integral_constant<int, 1>());
  }

#if defined(GLM_WHOLE_BLOCKS)
  WholeBlock whole_block(const CacheForm& form, const char* head) {
    if (form.kind == kWhole) return {head, e_};
    space_.whole_block.resize(size_t(2 * kSlots * e_));
    const auto* keys = reinterpret_cast<const int8_t*>(head + form.scale_bytes());
    int16_t* to = space_.whole_block.data();
    whole_bytes(keys, keys + kSlots * e_, e_, to, to + kSlots * e_);
    return {to, e_, reinterpret_cast<const float*>(head)};
  }

  // Rows from `first` on, which see the first there[i] slots.
  template <int kRows, bool kFetch>
  void add_whole_tile(const WholeBlock& block, int64_t first, const int64_t* there, NextLines& next) {
    alignas(64) float found[kRows * kSlots], squared[kRows * kLanes], scales[kRows];
    alignas(64) int16_t weights[kRows * kSlots];
    int64_t count = *std::max_element(there, there + kRows);
    whole_scores<kRows, kFetch>(space_.whole_queries.data() + first * e_, e_, block, count, next, found);
    for (int i = 0; i < kRows; ++i) {
      int64_t row = first + i;
      scales[i] = space_.query_scales[size_t(row)];
      if (there[i] < kSlots) std::fill(found + i * kSlots + there[i], found + (i + 1) * kSlots, kLowest);
      if (there[i] > 0) raise(row, highest_of(found + i * kSlots) * scales[i]);
    }
    auto weigh = [&](auto all) {
      for (int i = 0; i < kRows; ++i) {
        whole_weights<all()>(found + i * kSlots, scales[i], space_.top[size_t(first + i)], there[i], block,
                             space_.total.data() + (first + i) * kLanes, squared + i * kLanes);
      }
    };
    *std::min_element(there, there + kRows) >= kSlots ? weigh(std::true_type()) : weigh(std::false_type());
    for (int i = 0; i < kRows; ++i) scales[i] = glm::sum(load(squared + i * kLanes));
    for (int i = 0; i < kRows; ++i) scales[i] = round_weights(found + i * kSlots, scales[i], weights + i * kSlots);
    whole_mix<kRows, kFetch>(weights, scales, e_, block, count, next, space_.mixed.data() + first * e_);
  }
#endif

  static float highest_of(const float* scores) {
    Floats best = load(scores);
    for (int j = 1; j < 4; ++j) best = larger(best, load(scores + j * kLanes));
    return highest(best);
  }

  // What was added so far shrinks where a query has a higher score than before.
  void raise(int64_t row, float score) {
    float old = space_.top[size_t(row)];
    if (!(score > old)) return;
    float shrink = std::exp(old - score);
    float* total = space_.total.data() + row * kLanes;  // added up when all weights are there
    store(total, load(total) * shrink);
    float* mixed = space_.mixed.data() + row * e_;
    for (int64_t c = 0; c < e_; ++c) mixed[c] *= shrink;
    space_.top[size_t(row)] = score;
  }

  // Scores of a query become weights e^(score - top), of which the first `seen` count, times the scales of the values.
  void weigh(int64_t row, int64_t seen, int64_t count, const float* value_scales) {
    float* w = space_.weights.data() + row * kSlots;
    bool all = seen >= kSlots;
    if (!all) std::fill(w + std::max<int64_t>(0, seen), w + kSlots, kLowest);
    if (seen <= 0) {
      std::fill_n(w, count, 0.0f);
      return;
    }
    raise(row, highest_of(w));
    float* total = space_.total.data() + row * kLanes;
    float top = space_.top[size_t(row)];
    Floats sum = {};
    for (int j = 0; j < 4; ++j) {
      Floats score = load(w + j * kLanes), weight = exponential(score - top);
      if (!all) weight = choose(score <= kLowest, Floats{}, weight);
      sum += weight;
      if (value_scales != nullptr) weight *= load(value_scales + j * kLanes);
      store(w + j * kLanes, weight);
    }
    if (value_scales != nullptr && !all)
      std::fill(w + seen, w + kSlots, 0.0f);  // what is not there has no scale either
    store(total, load(total) + sum);
  }

  int64_t e_, group_, together_, rows_ = 0;
  bool whole_;
  Scratch& space_;
};

// All blocks of a sequence up to slot past + tokens. `after` is the block that is read after them, or null.
template <class Format>
void add_blocks(Item& item, const Attention& shape, const Sequence& s, int64_t kv_head, int64_t past, int64_t tokens,
                const char* after) {
  const CacheForm& form = shape.form;
  for (int64_t begin = 0; begin < past + tokens; begin += kSlots) {
    const char* head = form.head(s.blocks[begin / kSlots], shape.layer, kv_head);
    const char* next = after;
    if (begin + kSlots < past + tokens) next = form.head(s.blocks[begin / kSlots + 1], shape.layer, kv_head);
    int64_t count = std::min(kSlots, past + tokens - begin);
    auto seen = [&](int64_t t) { return past + t + 1 - begin; };
#if defined(GLM_WHOLE_BLOCKS)
    if (takes_whole(shape)) {
      // As much of the next block as is there, in the steps that a tile of this one takes.
      int64_t left = past + tokens - begin - kSlots, e = form.head_dim, bytes = 2 * form.part_bytes();
      if (left > 0 && form.kind == kWhole) bytes -= (kSlots - std::min(kSlots, left)) / 2 * e * 4;
      int64_t steps = (count > kSlots / 2 ? e : e / 2) + (count + 1) / 2 * (e / 32);
      NextLines lines = {next, next, std::max<int64_t>(2, (bytes / 64 + steps - 1) / steps)};
      if (next != nullptr) {
        for (int64_t i = 0; i < form.scale_bytes(); i += 64) __builtin_prefetch(next + i, 0, 2);
        lines.at += form.scale_bytes(), lines.end = lines.at + bytes;
      }
      item.add_whole(form, head, count, lines, seen);
      continue;
    }
#endif
    for (int64_t i = 0; next != nullptr && i < form.head_bytes(); i += 64) __builtin_prefetch(next + i, 0, 2);
    const float* scales = form.kind == kInt8 ? reinterpret_cast<const float*>(head) : nullptr;
    const auto* keys = reinterpret_cast<const typename Format::Stored*>(head + form.scale_bytes());
    item.add<Format>(keys, keys + kSlots * form.head_dim, scales, count, seen);
  }
}

}  // namespace

void cached_attention(const Attention& shape, const Sequence* sequences, int64_t count, const float* q, float* out) {
  struct Task {
    const Sequence* sequence;
    int64_t kv_head, head, heads, token, tokens;
  };
  std::vector<Task> tasks;
  const CacheForm& form = shape.form;
  int64_t e = form.head_dim, group = shape.heads / form.kv_heads, stride = shape.heads * e;
  int64_t parts = 1, items = count * form.kv_heads;
  while (items * parts < threads() && group % (parts * 2) == 0) parts *= 2;
  int64_t heads = group / parts, block = std::max<int64_t>(1, kQueries / heads), tokens = 0;
  for (int64_t i = 0; i < count; ++i) tokens += sequences[i].count;
  // Blocks are made whole numbers for as many queries as leave work for all threads.
  if (takes_whole(shape))
    while (2 * block * heads <= kMostQueries && tokens * form.kv_heads * parts >= 8 * block * threads()) block *= 2;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t t = 0; t < sequences[i].count; t += block)
      for (int64_t k = 0; k < form.kv_heads; ++k)
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
      item.add_prefix(shape.prefix_keys + skip, shape.prefix_values + skip, shape.prefix);
    }
    const char* after = nullptr;  // most likely this thread's next block
    if (size_t(i) + 1 < tasks.size()) {
      const Task& following = tasks[size_t(i) + 1];
      after = form.head(following.sequence->blocks[0], shape.layer, following.kv_head);
    }
    auto add = form.kind == kFloat32 ? add_blocks<Float32>
               : form.kind == kInt8  ? add_blocks<Int8>
                                     : add_blocks<Float16>;
    add(item, shape, s, task.kv_head, past, task.tokens, after);
    item.end(out + at, stride);
  });
}

}  // namespace glm
