#include "matmul.h"

#include <algorithm>
#include <memory>

#include "kept.h"
#include "panels.h"
#include "parallel.h"
#include "vectors.h"
#include "widen.h"

namespace glm {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 14, kWide = 2;  // 28 of 32 registers hold sums
constexpr int kDoubleRows = 14;
#elif defined(__AVX2__)
constexpr int kRows = 6, kWide = 1;  // sixteen numbers are two registers of sixteen
constexpr int kDoubleRows = 3;
#else
constexpr int kRows = 2, kWide = 1;
constexpr int kDoubleRows = 1;
#endif
constexpr int kColumns = kWide * kLanes;
constexpr int kAhead = 16;  // steps that panels of columns are fetched ahead, from the second cache
constexpr int64_t kDepth = 1024;
constexpr int64_t kFewTogether = 16;
constexpr int64_t kShallow = 16;
constexpr int64_t kBlock = 192;  // vectors of a packed block, which stays in the second cache where that has 1 MB
static_assert(kBlock % kColumns == 0, "blocks begin where panels do");

void put_floats(float* out, int64_t place, Floats numbers, int64_t count) {
  if (count == kLanes) {
    store(out + place, numbers);
  } else {
    store_some(out + place, numbers, count);
  }
}

void pack_rows(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale, void* out) {
  pack<kRows>(v, first, count, p, depth, scale,
              [=](int64_t place, Floats numbers, int64_t some) { put_floats((float*)out, place, numbers, some); });
}

void pack_columns(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale, void* out) {
  pack<kColumns>(v, first, count, p, depth, scale,
                 [=](int64_t place, Floats numbers, int64_t some) { put_floats((float*)out, place, numbers, some); });
}

// So many products are added one after the other, and then these sums to each other.
template <int64_t kTogether>
void multiply(int64_t depth, const void* a_panel, const void* b_panel, float* tile) {
  const float *a = (const float*)a_panel, *b = (const float*)b_panel;
  for (int64_t begin = 0; begin < depth; begin += kTogether) {
    int64_t end = std::min(depth, begin + kTogether);
    Floats sums[kRows][kWide] = {};
    for (int64_t p = begin; p < end; ++p, a += kRows, b += kColumns) {
      for (int j = 0; j < kWide; ++j) __builtin_prefetch(b + kAhead * kColumns + j * kLanes);
      __builtin_prefetch(a + kAhead * kRows);
      Floats right[kWide];
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) right[j] = load(b + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kWide; ++j) sums[i][j] += splat(a[i]) * right[j];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kWide; ++j) {
        float* out = tile + i * kColumns + j * kLanes;
        store(out, begin == 0 ? sums[i][j] : load(out) + sums[i][j]);
      }
    }
  }
}

void put_doubles(double* out, int64_t place, Floats numbers, int64_t count) {
  double wide[kLanes];
  write(wide, convert<Doubles>(numbers));
  std::memcpy(out + place, wide, size_t(count) * sizeof(double));
}

void pack_double_rows(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale,
                      void* out) {
  pack<kDoubleRows>(v, first, count, p, depth, scale, [=](int64_t place, Floats numbers, int64_t some) {
    put_doubles((double*)out, place, numbers, some);
  });
}

void pack_double_columns(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float scale,
                         void* out) {
  pack<kLanes>(v, first, count, p, depth, scale,
               [=](int64_t place, Floats numbers, int64_t some) { put_doubles((double*)out, place, numbers, some); });
}

void multiply_doubles(int64_t depth, const void* a_panel, const void* b_panel, float* tile) {
  const double *a = (const double*)a_panel, *b = (const double*)b_panel;
  Doubles sums[kDoubleRows] = {};
  for (int64_t p = 0; p < depth; ++p, a += kDoubleRows, b += kLanes) {
    Doubles right = read<Doubles>(b);
#pragma GCC unroll 16
    for (int i = 0; i < kDoubleRows; ++i) sums[i] += right * a[i];
  }
  for (int i = 0; i < kDoubleRows; ++i) store(tile + i * kLanes, to_floats(sums[i]));
}

const MatmulForm double_form = {kDoubleRows, kLanes, 8, 8, pack_double_rows, pack_double_columns, multiply_doubles};
const MatmulForm plain_form = {kRows, kColumns, 4, 4, pack_rows, pack_columns, multiply<kDepth>};
const MatmulForm short_sums = {kRows, kColumns, 4, 4, pack_rows, pack_columns, multiply<kFewTogether>};

thread_local Kept whole_memory, block_memory, widened_memory;

int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }
int64_t rounded(int64_t count, int64_t size) { return pieces(count, size) * size; }

float largest_of(const Vectors& v, int64_t depth) {
  int64_t lines = v.depth_step == 1 ? v.count : depth, length = v.depth_step == 1 ? depth : v.count;
  int64_t apart = v.depth_step == 1 ? v.step : v.depth_step, grain = std::max<int64_t>(1, 65536 / length);
  auto found = std::make_unique<float[]>(size_t(pieces(lines, grain)));
  parallel_ranges(lines, grain, [&](int64_t begin, int64_t end) {
    Ints most = {};
    for (int64_t i = begin; i < end; ++i) {
      const float* line = v.data + i * apart;
      for (int64_t j = 0; j < length; j += kLanes) {
        Floats numbers = j + kLanes <= length ? load(line + j) : load_some(line + j, length - j);
        Ints bits = bits_as<Ints>(numbers) & 0x7fffffff;  // ordered as sizes are, what is not a number above all
        most = choose(bits > most, bits, most);
      }
    }
    int32_t best = 0;
    for (int i = 0; i < kLanes; ++i) best = std::max(best, most[i]);
    std::memcpy(&found[begin / grain], &best, sizeof best);
  });
  float best = 0;
  for (int64_t i = 0; i < pieces(lines, grain); ++i) {
    if (!(found[i] <= best)) best = found[i];
  }
  return best;
}

// The power of two that brings the largest number to between 16 and 32: 32 products of such are below 65504.
float scale_of(const Vectors& v, int64_t depth) {
  float largest = v.largest < 0 ? largest_of(v, depth) : v.largest;
  if (!(largest > 0)) return largest == 0 ? 1.0f : largest;  // not a number stays what it is
  if (std::isinf(largest)) return NAN;
  int exponent;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::min(5 - exponent, 120));
}

struct Job {
  const MatmulForm& form;
  const Vectors &a, &b;
  float a_scale, b_scale, unscale;
  float* c;
  int64_t c_step;
  const float* bias;
  bool add;

  // C from row i, column j on: `rows` x `columns` of a tile, at its first piece of the depth or a later one.
  void finish(const float* tile, int64_t i, int64_t j, bool first) const {
    int64_t rows = std::min(form.rows, a.count - i), columns = std::min(form.columns, b.count - j);
    bool adds = add || !first;
    const float* start = first && bias != nullptr ? bias + j : nullptr;
    Floats factor = splat(unscale);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = c + (i + r) * c_step + j;
      const float* sums = tile + r * form.columns;
      for (int64_t q = 0; q < columns; q += kLanes) {
        int64_t some = std::min<int64_t>(kLanes, columns - q);
        Floats v = load(sums + q) * factor;
        if (some == kLanes) {
          if (adds) v += load(out + q);
          if (start != nullptr) v += load(start + q);
          store(out + q, v);
        } else {
          if (adds) v += load_some(out + q, some);
          if (start != nullptr) v += load_some(start + q, some);
          store_some(out + q, v, some);
        }
      }
    }
  }

  // Asks for the memory of a tile, so that it is there when the tile has been computed.
  void fetch(int64_t i, int64_t j) const {
    int64_t rows = std::min(form.rows, a.count - i), columns = std::min(form.columns, b.count - j);
    for (int64_t r = 0; r < rows; ++r) {
      const float* out = c + (i + r) * c_step + j;
      for (int64_t q = 0; q < columns; q += kLanes) __builtin_prefetch(out + q, 1);
    }
  }

  // All tiles of packed panels: rows [i, i_end) by columns [j, j_end).
  void multiply(const char* rows, int64_t i, int64_t i_end, const char* columns, int64_t j, int64_t j_end,
                int64_t depth, bool first) const {
    alignas(64) float tile[16 * 64];
    for (int64_t r = i; r < i_end; r += form.rows) {
      for (int64_t q = j; q < j_end; q += form.columns) {
        fetch(r, q);
        form.multiply(depth, rows + (r - i) * depth * form.row_bytes, columns + (q - j) * depth * form.column_bytes,
                      tile);
        finish(tile, r, q, first);
      }
    }
  }

  // Panels of rows [i, end). Vectors that lie across memory are taken a few numbers deep at a time, so that what is
  // read stays in few pages.
  void pack_all_rows(int64_t i, int64_t end, int64_t p, int64_t depth, char* out) const {
    int64_t deep = a.depth_step == 1 ? depth : kShallow;
    for (int64_t d = 0; d < depth; d += deep) {
      for (int64_t r = i; r < end; r += form.rows) {
        form.pack_rows(a, r, std::min(form.rows, end - r), p + d, std::min(deep, depth - d), a_scale,
                       out + ((r - i) * depth + d * form.rows) * form.row_bytes);
      }
    }
  }

  void pack_all_columns(int64_t j, int64_t end, int64_t p, int64_t depth, char* out) const {
    if (b.integers != nullptr) {
      pack_integers(j, end, p, depth, out);
      return;
    }
    int64_t deep = b.depth_step == 1 ? depth : kShallow;
    for (int64_t d = 0; d < depth; d += deep) {
      for (int64_t q = j; q < end; q += form.columns) {
        form.pack_columns(b, q, std::min(form.columns, end - q), p + d, std::min(deep, depth - d), b_scale,
                          out + ((q - j) * depth + d * form.columns) * form.column_bytes);
      }
    }
  }

  // The same where b is a weight of integers: what a panel is made of is widened first.
  void pack_integers(int64_t j, int64_t end, int64_t p, int64_t depth, char* out) const {
    bool rows = b.depth_step == 1;  // a panel after the other, its whole depth; or all panels, a few numbers deep
    int64_t deep = rows ? depth : kShallow, wide = rows ? form.columns : end - j;
    float* memory = widened_memory.floats(widened_size(b, wide, deep));
    for (int64_t d = 0; d < depth; d += deep) {
      int64_t some = std::min(deep, depth - d);
      for (int64_t first = j; first < end; first += wide) {
        int64_t last = std::min(end, first + wide);
        Vectors floats = widened(b, first, last - first, p + d, some, memory);
        for (int64_t q = first; q < last; q += form.columns) {
          form.pack_columns(floats, q - first, std::min(form.columns, last - q), 0, some, b_scale,
                            out + ((q - j) * depth + d * form.columns) * form.column_bytes);
        }
      }
    }
  }
};

// The operand with fewer vectors is packed whole, the other one block by block by the thread that uses it; so is b
// where it is a weight of integers, which then is nowhere widened as a whole.
void run(const Job& job, int64_t depth) {
  const MatmulForm& form = job.form;
  bool rows_whole = job.a.count <= job.b.count || job.b.integers != nullptr;
  int64_t whole = rows_whole ? job.a.count : job.b.count, whole_unit = rows_whole ? form.rows : form.columns;
  int64_t whole_bytes = rows_whole ? form.row_bytes : form.column_bytes;
  int64_t other = rows_whole ? job.b.count : job.a.count, unit = rows_whole ? form.columns : form.rows;
  int64_t unit_bytes = rows_whole ? form.column_bytes : form.row_bytes;
  int64_t steps = pieces(depth, kDepth), piece = rounded(pieces(depth, steps), 32);
  int64_t padded = rounded(whole, whole_unit), group = 8 * whole_unit, groups = pieces(whole, group);
  char* packed = whole_memory.take(padded * depth * whole_bytes);
  steps = pieces(depth, piece);
  parallel_for(steps * groups, [&](int64_t task) {
    int64_t p = task / groups * piece, length = std::min(piece, depth - p), i = task % groups * group;
    char* out = packed + (p * padded + i * length) * whole_bytes;
    if (rows_whole) {
      job.pack_all_rows(i, std::min(whole, i + group), p, length, out);
    } else {
      job.pack_all_columns(i, std::min(whole, i + group), p, length, out);
    }
  });
  int64_t block = std::clamp(rounded(pieces(other, 4 * threads()), unit), unit, rounded(kBlock - unit + 1, unit));
  parallel_ranges(other, block, [&](int64_t begin, int64_t end) {
    char* scratch = block_memory.take(rounded(block, unit) * piece * unit_bytes);
    for (int64_t p = 0; p < depth; p += piece) {
      int64_t length = std::min(piece, depth - p);
      const char* there = packed + p * padded * whole_bytes;
      if (rows_whole) {
        job.pack_all_columns(begin, end, p, length, scratch);
        job.multiply(there, 0, whole, scratch, begin, end, length, p == 0);
      } else {
        job.pack_all_rows(begin, end, p, length, scratch);
        for (int64_t j = 0; j < whole; j += kBlock) {
          job.multiply(scratch, begin, end, there + j * length * whole_bytes, j, std::min(whole, j + kBlock), length,
                       p == 0);
        }
      }
    }
  });
}

}  // namespace

const MatmulForm& float_form() { return plain_form; }
const MatmulForm& short_form() { return short_sums; }

bool halves_are_fast() { return half_form() != nullptr; }

void matmul(const Vectors& a, const Vectors& b, int64_t depth, float* c, int64_t c_step, const float* bias, bool add,
            Numbers numbers) {
  if (a.count <= 0 || b.count <= 0) return;
  const MatmulForm* half = numbers == Numbers::kHalf ? half_form() : nullptr;
  if (half == nullptr) {
    const MatmulForm& form = numbers == Numbers::kDouble ? double_form : plain_form;
    run({form, a, b, 1.0f, 1.0f, 1.0f, c, c_step, bias, add}, depth);
    return;
  }
  float a_scale = scale_of(a, depth), b_scale = scale_of(b, depth);
  run({*half, a, b, a_scale, b_scale, 1.0f / a_scale / b_scale, c, c_step, bias, add}, depth);
}

}  // namespace glm

extern "C" int glm_halves_are_fast() { return glm::halves_are_fast(); }

// For tests and measurements: c (m, n) = a b^T; orders tell whether a is (m, k) or (k, m), b (n, k) or (k, n).
extern "C" void glm_matmul(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k, int a_columns,
                           int b_columns, const float* bias, int add, int half) {
  using namespace glm;
  matmul(a_columns ? columns_of(a, k, m) : rows_of(a, m, k), b_columns ? columns_of(b, k, n) : rows_of(b, n, k), k, c,
         n, bias, add != 0, half ? Numbers::kHalf : Numbers::kFloat32);
}
