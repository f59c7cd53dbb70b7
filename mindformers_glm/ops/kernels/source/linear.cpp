#include "linear.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kept.h"
#include "matmul.h"
#include "parallel.h"
#include "widen.h"

namespace glm {
namespace {

constexpr int64_t kWidened = 1024;  // rows of a weight that are widened together
constexpr int64_t kTaskBytes = 1 << 17;
constexpr int64_t kNumbersTogether = 4096;  // that a thread finishes at least
// Of a weight of floats and few tokens, kTokens by kRows sums are in registers at once, kTokens by kRowsOfFew for up to
// kTokensWidened, for which rows are widened as often as they are read. Up to kFewTokens all that takes less time than
// packing panels.
#if defined(__AVX512F__)
constexpr int kTokens = 4, kRows = 6, kRowsOfFew = 4;
constexpr int64_t kTokensWidened = 8, kFewTokens = 64;
#elif defined(__AVX2__)
constexpr int kTokens = 2, kRows = 3, kRowsOfFew = 4;
constexpr int64_t kTokensWidened = 4, kFewTokens = 16;
#else
constexpr int kTokens = 2, kRows = 3, kRowsOfFew = 3;
constexpr int64_t kTokensWidened = 2, kFewTokens = 64;
#endif
constexpr int64_t kFewInDoubles = 8;  // the same where more are summed in float64

// Asks for `bytes` that are read next, a part of them in each of `passes`.
struct NextRows {
  const char* at;
  int64_t lines;  // for every step

  NextRows(const void* begin, int64_t bytes, int64_t steps, int64_t pass, int64_t passes)
      : at(static_cast<const char*>(begin) + bytes * pass / passes),
        lines(passes == 1 ? 0 : (bytes / passes / 64 + steps - 1) / std::max<int64_t>(1, steps)) {}

  void fetch() {
    for (int64_t i = 0; i < lines; ++i, at += 64) __builtin_prefetch(at, 0, 2);
  }
};

// s + a b in one rounding where the CPU has that, whatever the compiler makes of the loop around it: a token has the
// same numbers alone and beside others.
inline float added(float s, float a, float b) {
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
  return std::fma(a, b, s);
#else
  return s + a * b;
#endif
}

template <class Format, int kCount, int kTogether>
inline void dots(const float* x, int64_t ldx, const typename Format::Stored* w, int64_t ldw, int64_t k, NextRows next,
                 float (&out)[kTogether][kCount]) {
  Floats total[kTogether][kCount] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    next.fetch();
    Floats row[kCount];
    for (int r = 0; r < kCount; ++r) row[r] = Format::read(w + r * ldw + i);
    for (int t = 0; t < kTogether; ++t) {
      Floats token = load(x + t * ldx + i);
      for (int r = 0; r < kCount; ++r) total[t][r] += token * row[r];
    }
  }
  for (int t = 0; t < kTogether; ++t) {
    for (int r = 0; r < kCount; ++r) {
      float s = sum(total[t][r]);
      for (int64_t j = i; j < k; ++j) s = added(s, x[t * ldx + j], Format::one(w[r * ldw + j]));
      out[t][r] = s;
    }
  }
}

// out (m, kCount) = x (m, k) w (kCount, k)^T; `next` are the rows that are read after these.
template <class Format, int kCount>
void some_rows(const float* x, int64_t m, const typename Format::Stored* w, int64_t k, const void* next, float* out,
               int64_t ldout) {
  int64_t passes = (m + kTokens - 1) / kTokens;
  int64_t bytes = kCount * k * int64_t(sizeof(typename Format::Stored));
  auto some = [&](int64_t t, auto together) {
    float found[together()][kCount];
    dots<Format, kCount, together()>(x + t * k, k, w, k, k, {next, bytes, k / kLanes, t / kTokens, passes}, found);
    for (int i = 0; i < together(); ++i)
      for (int r = 0; r < kCount; ++r) out[(t + i) * ldout + r] = found[i][r];
  };
  int64_t t = 0;
  for (; t + kTokens <= m; t += kTokens) some(t, std::integral_constant<int, kTokens>());
  if (kTokens > 2)
    for (; t + 2 <= m; t += 2) some(t, std::integral_constant<int, 2>());
  if (t < m) some(t, std::integral_constant<int, 1>());
}

// The same in two steps where many tokens follow: the rows as float32, then each token.
template <class Format, int kCount>
void rows_of_weight(const float* x, int64_t m, const typename Format::Stored* w, int64_t k, float* out, int64_t ldout) {
  const auto* next = w + kCount * k;
  if (std::is_same_v<typename Format::Stored, float> || m <= kTokensWidened) {
    some_rows<Format, kCount>(x, m, w, k, next, out, ldout);
    return;
  }
  static thread_local Kept memory;
  float* wide = memory.floats(kCount * k);
  int64_t i = 0;
  for (; i + kLanes <= kCount * k; i += kLanes) store(wide + i, Format::read(w + i));
  for (; i < kCount * k; ++i) wide[i] = Format::one(w[i]);
  some_rows<Float32, kCount>(x, m, wide, k, next, out, ldout);
}

template <class Format>
void each_row(const float* x, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  const auto* data = static_cast<const typename Format::Stored*>(w.weight);
  int64_t n = begin, k = w.columns;
  if (m > kTokensWidened)
    for (; n + kRows <= end; n += kRows) rows_of_weight<Format, kRows>(x, m, data + n * k, k, out + n - begin, ldout);
  for (; n + kRowsOfFew <= end; n += kRowsOfFew)
    rows_of_weight<Format, kRowsOfFew>(x, m, data + n * k, k, out + n - begin, ldout);
  for (; n < end; ++n) rows_of_weight<Format, 1>(x, m, data + n * k, k, out + n - begin, ldout);
}

int64_t number_bytes(const Linear& w) { return w.kind == kFloat32 ? 4 : 2; }

void few(const float* x, int64_t m, const Linear& w, float* y, int64_t n) {
  int64_t some = std::min<int64_t>(w.rows / threads() + 1, kTaskBytes / (w.columns * number_bytes(w)));
  int64_t unit = m > kTokensWidened ? 2 * kRows : kRowsOfFew;
  parallel_ranges(w.rows, std::max<int64_t>(24, some / unit * unit), [&](int64_t begin, int64_t end) {
    if (w.kind == kFloat32) each_row<Float32>(x, m, w, begin, end, y + begin, n);
    if (w.kind == kBfloat16) each_row<Bfloat16>(x, m, w, begin, end, y + begin, n);
    if (w.kind == kFloat16) each_row<Float16>(x, m, w, begin, end, y + begin, n);
  });
}

// y (m, w.rows), rows n apart, for a weight of floats.
void plain(const float* x, int64_t m, const Linear& w, float* y, int64_t n, Workspace& space) {
  int64_t k = w.columns;
  Numbers numbers = space.in_doubles ? Numbers::kDouble : Numbers::kFloat32;
  if (m <= tokens_as_alone(space.in_doubles)) {
    few(x, m, w, y, n);
  } else if (w.kind == kFloat32) {
    matmul(rows_of(x, m, k), rows_of(static_cast<const float*>(w.weight), w.rows, k), k, y, n, nullptr, false, numbers);
  } else {
    float* wide = space.widened.take(std::min(kWidened, w.rows) * k);
    for (int64_t begin = 0; begin < w.rows; begin += kWidened) {
      int64_t count = std::min(kWidened, w.rows - begin);
      parallel_ranges(count, 16, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) read_row(w, begin + r, wide + r * k);
      });
      matmul(rows_of(x, m, k), rows_of(wide, count, k), k, y + begin, n, nullptr, false, numbers);
    }
  }
}

// The adapter of some tokens; null where they have none here.
const Lora* lora_of(const Linear& w, const Share& share) {
  if (share.adapter < 0 || share.adapter >= w.num_loras) return nullptr;
  const Lora* lora = w.loras + share.adapter;
  return lora->a == nullptr ? nullptr : lora;
}

void finish_rows(const Linear& w, const float* found, int64_t m, float* y, Finish finish) {
  int64_t n = w.rows, half = n / 2;
  static thread_local std::vector<float> bias;
  bias.assign(size_t(n), 0.0f);
  if (w.bias != nullptr) read_numbers(w.bias, w.bias_kind, n, bias.data());
  const float* b = bias.data();
  auto both = [&](const float* row, int64_t i) { return load(row + i) + load(b + i); };
  parallel_ranges(m, std::max<int64_t>(1, kNumbersTogether / n), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = found + t * n;
      float* out = y + t * (finish == kSwiglu ? half : n);
      int64_t count = finish == kSwiglu ? half : n, i = 0;
      for (; i + kLanes <= count; i += kLanes) {
        Floats v = both(row, i);
        if (finish == kSwiglu) v = silu(v) * both(row, half + i);
        store(out + i, finish == kAdd ? load(out + i) + v : v);
      }
      for (; i < count; ++i) {
        float v = row[i] + b[i];
        if (finish == kSwiglu) v = v / (1.0f + std::exp(-v)) * (row[half + i] + b[half + i]);
        out[i] = finish == kAdd ? out[i] + v : v;
      }
    }
  });
}

// What the adapters make of found (m, w.rows) = x W^T.
void adapt(const float* x, const std::vector<Share>& shares, const Linear& w, float* found, Workspace& space) {
  int64_t n = w.rows, k = w.columns;
  for (const Share& share : shares) {
    const Lora* lora = lora_of(w, share);
    if (lora == nullptr) continue;
    int64_t m = share.end - share.begin, rank = lora->a->rows;
    float* low = space.low.take(m * (rank + n));
    float* delta = low + m * rank;
    plain(x + share.begin * k, m, *lora->a, low, rank, space);
    plain(low, m, *lora->b, delta, n, space);
    float* rows = found + share.begin * n;
    parallel_ranges(m, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t i = 0; i < n; ++i) rows[t * n + i] += lora->scale * delta[t * n + i];
        if (lora->factor == nullptr) continue;
        for (int64_t i = 0; i < n; ++i) rows[t * n + i] *= lora->factor[i];
      }
    });
  }
}

}  // namespace

int64_t tokens_as_alone(bool in_doubles) { return in_doubles ? kFewInDoubles : kFewTokens; }

float* Buffer::take(int64_t count) {
  if (int64_t(floats.size()) < count + 16) floats.resize(size_t(count + 16));
  auto address = reinterpret_cast<uintptr_t>(floats.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

void read_numbers(const void* from, int32_t kind, int64_t count, float* out) {
  const auto* halves = static_cast<const uint16_t*>(from);
  if (kind == kFloat32) {
    std::memcpy(out, from, size_t(count) * sizeof(float));
  } else if (kind == kBfloat16) {
    for (int64_t i = 0; i < count; ++i) out[i] = bfloat_to_float(halves[i]);
  } else {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(out + i, load_halves(halves + i));
    for (; i < count; ++i) out[i] = half_to_float(halves[i]);
  }
}

void read_row(const Linear& w, int64_t row, float* out) {
  if (w.kind == kInt8 || w.kind == kInt4) {
    const auto* weight = static_cast<const uint8_t*>(w.weight);
    return widen_row({weight, w.scale, w.rows, w.columns, w.group, w.kind == kInt4}, row, out);
  }
  int64_t size = number_bytes(w);
  read_numbers(static_cast<const char*>(w.weight) + row * w.columns * size, w.kind, w.columns, out);
}

void linear(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space,
            const std::vector<Share>* shares) {
  const std::vector<Share> own = shares == nullptr ? std::vector<Share>{{0, m, 0}} : std::vector<Share>{};
  if (shares == nullptr) shares = &own;
  bool adapted = std::any_of(shares->begin(), shares->end(), [&](const Share& s) { return lora_of(w, s) != nullptr; });
  bool integers = w.kind >= kInt8, halves_are_panels = finish != kSwiglu || w.rows % 32 == 0;
  auto packed = w.kind == kW8A8 ? linear_whole : linear_integers;
  if (integers && !adapted && halves_are_panels) {
    packed(x, m, w, y, finish, space);
    return;
  }
  bool direct = finish == kWrite && w.bias == nullptr;
  float* found = direct ? y : space.wide.take(m * w.rows);
  if (integers) {
    Linear bare = w;
    bare.bias = nullptr;
    packed(x, m, bare, found, kWrite, space);
  } else {
    plain(x, m, w, found, w.rows, space);
  }
  if (adapted) adapt(x, *shares, w, found, space);
  if (!direct) finish_rows(w, found, m, y, finish);
}

}  // namespace glm
