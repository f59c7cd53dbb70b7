#include "widen.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "vectors.h"

namespace glm {
namespace {

typedef uint8_t Bytes __attribute__((vector_size(16)));

// Sixteen columns of a row from column c on, a multiple of 16: they have one scale and lie in one half of their bytes.
inline Floats sixteen(const Integers& w, const uint8_t* row, int64_t c) {
  if (!w.four) return convert<Floats>(load_bytes((const int8_t*)row + c));
  auto halves = read<Bytes>(row + c / 128 * 64 + c % 64);
  int8_t small[kLanes];
  write(small, c % 128 < 64 ? halves & 15 : halves >> 4);
  return convert<Floats>(load_bytes(small) - 8);
}

// out (rows, end - begin), `apart` floats from row to row: rows from `first` on, columns [begin, end), multiples of 16.
void widen(const Integers& w, int64_t first, int64_t rows, int64_t begin, int64_t end, float* out, int64_t apart) {
  int64_t bytes = w.row_bytes(), groups = w.columns / w.group;
  for (int64_t i = 0; i < rows; ++i) {
    const uint8_t* row = w.weight + (first + i) * bytes;
    const uint16_t* scale = w.scale + (first + i) * groups;
    for (int64_t c = begin; c < end;) {
      int64_t stop = std::min(end, (c / w.group + 1) * w.group);
      Floats factor = splat(half_to_float(scale[c / w.group]));
      for (; c < stop; c += kLanes) store(out + i * apart + c - begin, sixteen(w, row, c) * factor);
    }
  }
}

// No number of the weight is larger.
float bound_of(const Integers& w) {
  int64_t count = w.rows * (w.columns / w.group), grain = 1 << 16, tasks = (count + grain - 1) / grain;
  std::vector<uint16_t> found(size_t(tasks), 0);
  parallel_ranges(count, grain, [&](int64_t begin, int64_t end) {
    uint16_t most = 0;  // sizes are ordered as their bits are
    for (int64_t i = begin; i < end; ++i) most = std::max<uint16_t>(most, w.scale[i] & 0x7fff);
    found[size_t(begin / grain)] = most;
  });
  return half_to_float(*std::max_element(found.begin(), found.end())) * (w.four ? 8.0f : 128.0f);
}

}  // namespace

void widen_row(const Integers& w, int64_t row, float* out) { widen(w, row, 1, 0, w.columns, out, w.columns); }

int64_t widened_size(const Vectors& v, int64_t count, int64_t depth) {
  int64_t across = v.depth_step == 1 ? depth : count, along = v.depth_step == 1 ? count : depth;
  return along * (across + 2 * kLanes);
}

Vectors widened(const Vectors& v, int64_t first, int64_t count, int64_t p, int64_t depth, float* memory) {
  bool rows = v.depth_step == 1;
  int64_t column = rows ? p : first, columns = rows ? depth : count, row = rows ? first : p;
  int64_t begin = column / kLanes * kLanes, end = (column + columns + kLanes - 1) / kLanes * kLanes;
  widen(*v.integers, row, rows ? count : depth, begin, end, memory, end - begin);
  const float* data = memory + (column - begin);
  return rows ? Vectors{data, count, end - begin, 1} : Vectors{data, count, 1, end - begin};
}

Vectors rows_of(const Integers& w) { return {nullptr, w.rows, w.columns, 1, bound_of(w), &w}; }
Vectors columns_of(const Integers& w) { return {nullptr, w.columns, 1, w.columns, bound_of(w), &w}; }

}  // namespace glm
