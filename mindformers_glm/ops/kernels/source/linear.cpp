#include "linear.h"

#include <algorithm>

#include "parallel.h"

namespace glm {
namespace {

Sgemm library_sgemm = nullptr;
constexpr int64_t kFewRows = 8;     // up to so many rows of x each weight is read once and multiplied with all
constexpr int64_t kPanel = 64;      // rows of a weight that are widened together
constexpr int64_t kTaskBytes = 1 << 17;

template <class Format, int kRows, int kTokens>
inline void dots(const float* x, int64_t ldx, const typename Format::Stored* w, int64_t ldw, int64_t k,
                 float (&out)[kTokens][kRows]) {
  Floats total[kTokens][kRows] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    Floats row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = Format::read(w + r * ldw + i);
    for (int t = 0; t < kTokens; ++t) {
      Floats token = load(x + t * ldx + i);
      for (int r = 0; r < kRows; ++r) total[t][r] += token * row[r];
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRows; ++r) {
      float s = sum(total[t][r]);
      for (int64_t j = i; j < k; ++j) s += x[t * ldx + j] * Format::one(w[r * ldw + j]);
      out[t][r] = s;
    }
  }
}

template <class Format, int kRows, int kTokens>
inline void some_rows(const float* x, const typename Format::Stored* w, int64_t k, float* out, int64_t ldout) {
  float found[kTokens][kRows];
  dots<Format, kRows, kTokens>(x, k, w, k, k, found);
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) out[t * ldout + r] = found[t][r];
}

// out (m, rows) = x (m, k) w (rows, k)^T for few m.
template <class Format, int kRows>
void few_tokens(const float* x, int64_t m, const typename Format::Stored* w, int64_t k, float* out, int64_t ldout) {
  int64_t t = 0;
  for (; t + 4 <= m; t += 4) some_rows<Format, kRows, 4>(x + t * k, w, k, out + t * ldout, ldout);
  for (; t + 2 <= m; t += 2) some_rows<Format, kRows, 2>(x + t * k, w, k, out + t * ldout, ldout);
  if (t < m) some_rows<Format, kRows, 1>(x + t * k, w, k, out + t * ldout, ldout);
}

template <class Format>
void rows_of(const float* x, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  const auto* data = static_cast<const typename Format::Stored*>(w.weight);
  int64_t n = begin, k = w.columns;
  for (; n + 4 <= end; n += 4) few_tokens<Format, 4>(x, m, data + n * k, k, out + n - begin, ldout);
  for (; n < end; ++n) few_tokens<Format, 1>(x, m, data + n * k, k, out + n - begin, ldout);
}

void read_integers(const Linear& w, int64_t row, float* out) {
  const uint16_t* scale = w.scale + row * (w.columns / w.group);
  if (w.kind == kInt8) {
    const int8_t* q = static_cast<const int8_t*>(w.weight) + row * w.columns;
    for (int64_t g = 0; g < w.columns / w.group; ++g) {
      float s = half_to_float(scale[g]);
      for (int64_t j = g * w.group; j < (g + 1) * w.group; ++j) out[j] = float(q[j]) * s;
    }
    return;
  }
  const uint8_t* q = static_cast<const uint8_t*>(w.weight) + row * ((w.columns + 127) / 128 * 64);
  for (int64_t at = 0; at < w.columns; at += 128, q += 64) {
    int8_t whole[128];
    for (int64_t j = 0; j < 64; ++j) {
      whole[j] = int8_t((q[j] & 15) - 8);
      whole[64 + j] = int8_t((q[j] >> 4) - 8);
    }
    for (int64_t g = 0; g < 128 && at + g < w.columns; g += w.group) {
      float s = half_to_float(scale[(at + g) / w.group]);
      for (int64_t j = g; j < g + w.group; ++j) out[at + j] = float(whole[j]) * s;
    }
  }
}

// out (m, end - begin) by widening rows of the weight to float32 first.
void widened(const float* x, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  static thread_local std::vector<float> panel;
  int64_t k = w.columns;
  panel.resize(size_t(kPanel * k));
  for (int64_t n = begin; n < end; n += kPanel) {
    int64_t count = std::min(kPanel, end - n);
    for (int64_t r = 0; r < count; ++r) read_row(w, n + r, panel.data() + r * k);
    Linear wide = w;
    wide.weight = panel.data();
    wide.kind = kFloat32;
    if (library_sgemm != nullptr && m > kFewRows) {
      library_sgemm('N', 'T', m, count, k, 1.0f, x, k, panel.data(), k, 0.0f, out + n - begin, ldout);
    } else {
      rows_of<Float32>(x, m, wide, 0, count, out + n - begin, ldout);
    }
  }
}

void any_rows(const float* x, int64_t m, const Linear& w, int64_t begin, int64_t end, float* out, int64_t ldout) {
  bool many = m > kFewRows && library_sgemm != nullptr;
  if (w.kind == kFloat32 && many) {
    const float* data = static_cast<const float*>(w.weight) + begin * w.columns;
    library_sgemm('N', 'T', m, end - begin, w.columns, 1.0f, x, w.columns, data, w.columns, 0.0f, out, ldout);
  } else if (w.kind == kFloat32) {
    rows_of<Float32>(x, m, w, begin, end, out, ldout);
  } else if (w.kind == kBfloat16 && !many) {
    rows_of<Bfloat16>(x, m, w, begin, end, out, ldout);
  } else if (w.kind == kFloat16 && !many) {
    rows_of<Float16>(x, m, w, begin, end, out, ldout);
  } else {
    widened(x, m, w, begin, end, out, ldout);
  }
}

int64_t bytes_per_row(const Linear& w) {
  static const int64_t half_bytes[] = {8, 4, 4, 2, 1};
  return w.columns * half_bytes[w.kind] / 2;
}

void plain(const float* x, int64_t m, const Linear& w, float* y, Workspace& space, int64_t n) {
  int64_t grain = std::max<int64_t>(16, std::min<int64_t>(w.rows / threads() + 1, kTaskBytes / bytes_per_row(w)) / 4 * 4);
  if (m > kFewRows) grain = std::max<int64_t>(64, (w.rows / (2 * threads()) + 63) / 64 * 64);
  parallel_ranges(w.rows, grain, [&](int64_t begin, int64_t end) { any_rows(x, m, w, begin, end, y + begin, n); });
}

void finish_rows(const Linear& w, const float* found, int64_t m, float* y, Finish finish) {
  int64_t n = w.rows, half = n / 2;
  static thread_local std::vector<float> bias;
  bias.assign(size_t(n), 0.0f);
  if (w.bias != nullptr) read_numbers(w.bias, w.bias_kind, n, bias.data());
  const float* b = bias.data();
  auto both = [&](const float* row, int64_t i) { return load(row + i) + load(b + i); };
  parallel_ranges(m, 16, [&](int64_t begin, int64_t end) {
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

}  // namespace

float* Buffer::take(int64_t count) {
  if (int64_t(floats.size()) < count + 16) floats.resize(size_t(count + 16));
  auto address = reinterpret_cast<uintptr_t>(floats.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

void set_sgemm(Sgemm function) { library_sgemm = function; }
Sgemm sgemm() { return library_sgemm; }

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
  if (w.kind >= kInt8) {
    read_integers(w, row, out);
    return;
  }
  int64_t size = w.kind == kFloat32 ? 4 : 2;
  read_numbers(static_cast<const char*>(w.weight) + row * w.columns * size, w.kind, w.columns, out);
}

void linear(const float* x, int64_t m, const Linear& w, float* y, Finish finish, Workspace& space) {
  bool in_integers = w.kind >= kInt8 && integers_are_fast() && w.group % 32 == 0;
  if (in_integers && w.lora_a == nullptr) {
    linear_integers(x, m, w, y, finish, space);
    return;
  }
  bool direct = finish == kWrite && w.bias == nullptr;
  float* found = direct ? y : space.wide.take(m * w.rows);
  if (in_integers) {
    Linear bare = w;
    bare.bias = nullptr;
    bare.lora_a = nullptr;
    linear_integers(x, m, bare, found, kWrite, space);
  } else {
    plain(x, m, w, found, space, w.rows);
  }
  if (w.lora_a != nullptr) {
    int64_t rank = w.lora_a->rows;
    float* low = space.low.take(m * (rank + w.rows));
    float* delta = low + m * rank;
    plain(x, m, *w.lora_a, low, space, rank);
    plain(low, m, *w.lora_b, delta, space, w.rows);
    for (int64_t i = 0; i < m * w.rows; ++i) found[i] += w.lora_scale * delta[i];
  }
  if (!direct) finish_rows(w, found, m, y, finish);
}

}  // namespace glm
