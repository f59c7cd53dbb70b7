#include "ranges.h"

#include <algorithm>
#include <vector>

#include "dots.h"
#include "packing.h"
#include "parallel.h"

namespace glm {
namespace {

constexpr int64_t kTaskBytes = 1 << 17;
constexpr int64_t kAhead = 4;  // rows of y that are fetched ahead

// What is done to the sums of a range of rows while they are warm.
void finish(const Linear& w, const float* found, int64_t width, int64_t m, int64_t begin, float* y, Finish how) {
  int64_t n = how == kSwiglu ? w.rows / 2 : w.rows, count = how == kSwiglu ? width / 2 : width;
  static thread_local std::vector<float> bias;
  bias.assign(size_t(width), 0.0f);
  if (w.bias != nullptr) {
    int64_t size = w.bias_kind == kFloat32 ? 4 : 2;
    const char* from = static_cast<const char*>(w.bias);
    read_numbers(from + begin * size, w.bias_kind, count, bias.data());
    if (how == kSwiglu) read_numbers(from + (n + begin) * size, w.bias_kind, count, bias.data() + count);
  }
  for (int64_t t = 0; t < m; ++t) {
    const float* row = found + t * width;
    float* out = y + t * n + begin;
    if (t + kAhead < m)
      for (int64_t i = 0; i < count; i += kLanes) __builtin_prefetch(out + kAhead * n + i, 1);
    for (int64_t i = 0; i < count; i += kLanes) {
      int64_t left = std::min<int64_t>(kLanes, count - i);
      Floats v = load_some(row + i, left) + load_some(bias.data() + i, left);
      if (how == kSwiglu) v = silu(v) * (load_some(row + count + i, left) + load_some(bias.data() + count + i, left));
      if (how == kAdd) v += load_some(out + i, left);
      store_some(out + i, v, left);
    }
  }
}

}  // namespace

void by_ranges(int64_t m, const Linear& w, float* y, Finish how, const SomeRows& some) {
  bool halves = how == kSwiglu;
  int64_t n = halves ? w.rows / 2 : w.rows;
  int64_t grain = std::max<int64_t>(m <= 2 * kTokensAtOnce ? kTaskBytes / packed_bytes(w) : 64, kPanel);
  grain = std::min(grain, (n + threads() - 1) / threads());
  grain = (grain + kPanel - 1) / kPanel * kPanel;
  if (how == kWrite && w.bias == nullptr) {
    parallel_ranges(n, grain, [&](int64_t begin, int64_t end) { some(begin, end, y + begin, n); });
    return;
  }
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<float> found;
    int64_t count = end - begin, width = halves ? 2 * count : count;
    found.resize(size_t(m * width));
    some(begin, end, found.data(), width);
    if (halves) some(n + begin, n + end, found.data() + count, width);
    finish(w, found.data(), width, m, begin, y, how);
  });
}

}  // namespace glm
