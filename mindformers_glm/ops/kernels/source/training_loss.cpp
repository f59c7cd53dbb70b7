// Cross entropy of the output layer: loss, and gradients of hidden states and of the weight, some tokens at a time.
// Those that count 0 (ignored labels) take no time: they are left out. hidden (N, D), weight (V, D), of integers its
// scales (V, D / g) too, target (N, 1), what each token counts (N, 1).
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "kept.h"
#include "matmul.h"
#include "operators.h"
#include "parallel.h"
#include "vectors.h"
#include "widen.h"

using namespace glm;

namespace {

constexpr int64_t kLogits = int64_t(1) << 25;  // held at once

thread_local Kept logits_memory, hidden_memory, slopes_memory;

// Logits of a token -> their gradient count * (softmax - the wanted distribution); returns count * cross entropy.
// Wanted is 1 at the target, or with `smoothing` s 1 - s there and s / classes more everywhere.
double loss_of_row(float* x, int64_t classes, int64_t target, float count, float smoothing) {
  Floats top = splat(-INFINITY), sums = {};
  int64_t even = classes / kLanes * kLanes;
  for (int64_t j = 0; j < even; j += kLanes) top = larger(top, load(x + j));
  float best = highest(top);
  for (int64_t j = even; j < classes; ++j) best = std::max(best, x[j]);
  double loss = -double(x[target] - best) * (1.0 - smoothing);
  if (smoothing > 0.0f) {
    double all = 0;
    for (int64_t j = 0; j < classes; ++j) all += x[j] - best;
    loss -= all * smoothing / double(classes);
  }
  for (int64_t j = 0; j < even; j += kLanes) {
    Floats v = exponential(load(x + j) - best);
    sums += v;
    store(x + j, v);
  }
  float total = sum(sums);
  for (int64_t j = even; j < classes; ++j) total += x[j] = std::exp(x[j] - best);
  float share = count / total, spread = count * smoothing / float(classes);
  for (int64_t j = 0; j < even; j += kLanes) store(x + j, load(x + j) * share - spread);
  for (int64_t j = even; j < classes; ++j) x[j] = x[j] * share - spread;
  x[target] -= count * (1.0f - smoothing);
  return count * (loss + std::log(double(total)));
}

// The weight as an operand. `target` is the number of the input that follows it.
struct Weight {
  Vectors rows, columns;
  int target;
};

// Some of the rows of width d, by their numbers; where these follow each other the rows need no copy.
struct Chosen {
  const int64_t* numbers;
  int64_t count, d;

  bool are_together() const { return numbers[count - 1] - numbers[0] == count - 1; }

  const float* gathered(const float* from, float* room) const {
    for (int64_t i = 0; i < count; ++i) std::copy_n(from + numbers[i] * d, d, room + i * d);
    return room;
  }

  void scattered(const float* from, float* to) const {
    for (int64_t i = 0; i < count; ++i) std::copy_n(from + i * d, d, to + numbers[i] * d);
  }
};

std::vector<int64_t> counted(const float* counts, const int32_t* targets, int64_t n, int64_t classes) {
  std::vector<int64_t> found;
  found.reserve(size_t(n));
  for (int64_t i = 0; i < n; ++i) {
    if (counts[i] == 0.0f) continue;
    if (targets[i] < 0 || targets[i] >= classes) throw std::out_of_range("label");
    found.push_back(i);
  }
  return found;
}

// Outputs that are null are not computed.
void head(const Arguments& given, const Weight& weight, float* loss, float* dhidden, float* dweight, Numbers numbers,
          float smoothing) {
  int64_t d = given.size(0, 1), v = given.size(1, 0);
  const int32_t* targets = given.ints(weight.target);
  const float *hidden = given.floats(0), *counts = given.floats(weight.target + 1);
  std::vector<int64_t> places = counted(counts, targets, given.size(0, 0), v);
  int64_t n = int64_t(places.size());
  if (n < given.size(0, 0) && dhidden != nullptr) std::fill_n(dhidden, given.total(0), 0.0f);
  if (n == 0 && dweight != nullptr) std::fill_n(dweight, v * d, 0.0f);
  int64_t chunk = std::clamp<int64_t>(kLogits / v, 1, std::max<int64_t>(n, 1));
  int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks > 0) chunk = (n + chunks - 1) / chunks;
  float* logits = logits_memory.floats(chunk * v);
  std::vector<double> losses(size_t(n), 0.0);
  for (int64_t begin = 0; begin < n; begin += chunk) {
    Chosen rows{places.data() + begin, std::min(chunk, n - begin), d};
    bool together = rows.are_together();
    const float* x = together ? hidden + rows.numbers[0] * d : rows.gathered(hidden, hidden_memory.floats(chunk * d));
    matmul(rows_of(x, rows.count, d), weight.rows, d, logits, v, nullptr, false, numbers);
    parallel_for(rows.count, [&](int64_t i) {
      int64_t place = rows.numbers[i];
      losses[size_t(begin + i)] = loss_of_row(logits + i * v, v, targets[place], counts[place], smoothing);
    });
    float largest = 0;  // no gradient is above it
    for (int64_t i = 0; i < rows.count; ++i) largest = std::max(largest, counts[rows.numbers[i]]);
    if (dhidden != nullptr) {
      Vectors slopes = rows_of(logits, rows.count, v);
      slopes.largest = largest;
      float* out = together ? dhidden + rows.numbers[0] * d : slopes_memory.floats(chunk * d);
      matmul(slopes, weight.columns, v, out, d, nullptr, false, numbers);
      if (!together) rows.scattered(out, dhidden);
    }
    if (dweight != nullptr) {
      Vectors slopes = columns_of(logits, rows.count, v);
      slopes.largest = largest;
      matmul(slopes, columns_of(x, rows.count, d), rows.count, dweight, d, nullptr, begin > 0, numbers);
    }
  }
  if (loss != nullptr) {
    double total = 0;
    for (double one : losses) total += one;
    *loss = float(total);
  }
}

void head(const Arguments& given, float* loss, float* dhidden, float* dweight, Numbers numbers, float smoothing = 0) {
  int64_t v = given.size(1, 0), d = given.size(1, 1);
  const float* weight = given.floats(1);
  head(given, {rows_of(weight, v, d), columns_of(weight, v, d), 2}, loss, dhidden, dweight, numbers, smoothing);
}

// The weight is frozen; `smooth`: the input after the counts says how much is spread over all classes.
void integer_head(const Arguments& given, bool four, Numbers numbers, bool smooth) {
  int64_t columns = given.size(0, 1);
  Integers weight{static_cast<const uint8_t*>(given.data[1]),
                  static_cast<const uint16_t*>(given.data[2]),
                  given.size(1, 0),
                  columns,
                  columns / given.size(2, 1),
                  four};
  int out = smooth ? 6 : 5;
  head(given, {rows_of(weight), columns_of(weight), 3}, given.floats(out), given.floats(out + 1), nullptr, numbers,
       smooth ? given.floats(5)[0] : 0);
}

}  // namespace

// -> loss (1), dhidden, dweight
GLM_OPERATOR(GlmHeadLoss) { head(given, given.floats(4), given.floats(5), given.floats(6), Numbers::kFloat32); }
GLM_OPERATOR(GlmHeadLossHalf) { head(given, given.floats(4), given.floats(5), given.floats(6), Numbers::kHalf); }
// -> loss (1), dhidden
GLM_OPERATOR(GlmFrozenHeadLoss) { head(given, given.floats(4), given.floats(5), nullptr, Numbers::kFloat32); }
GLM_OPERATOR(GlmFrozenHeadLossHalf) { head(given, given.floats(4), given.floats(5), nullptr, Numbers::kHalf); }
// -> dweight
GLM_OPERATOR(GlmHeadWeight) { head(given, nullptr, nullptr, given.floats(4), Numbers::kFloat32); }
GLM_OPERATOR(GlmHeadWeightHalf) { head(given, nullptr, nullptr, given.floats(4), Numbers::kHalf); }

// The same with smoothed labels: a further input (1), how much is spread over all classes.
GLM_OPERATOR(GlmSmoothHeadLoss) {
  head(given, given.floats(5), given.floats(6), given.floats(7), Numbers::kFloat32, given.floats(4)[0]);
}
GLM_OPERATOR(GlmSmoothHeadLossHalf) {
  head(given, given.floats(5), given.floats(6), given.floats(7), Numbers::kHalf, given.floats(4)[0]);
}
GLM_OPERATOR(GlmSmoothFrozenHeadLoss) {
  head(given, given.floats(5), given.floats(6), nullptr, Numbers::kFloat32, given.floats(4)[0]);
}
GLM_OPERATOR(GlmSmoothFrozenHeadLossHalf) {
  head(given, given.floats(5), given.floats(6), nullptr, Numbers::kHalf, given.floats(4)[0]);
}
GLM_OPERATOR(GlmSmoothHeadWeight) {
  head(given, nullptr, nullptr, given.floats(5), Numbers::kFloat32, given.floats(4)[0]);
}
GLM_OPERATOR(GlmSmoothHeadWeightHalf) {
  head(given, nullptr, nullptr, given.floats(5), Numbers::kHalf, given.floats(4)[0]);
}

// hidden, integers, scales, target, counts -> loss (1), dhidden
GLM_OPERATOR(GlmFrozenHeadLossInt8) { integer_head(given, false, Numbers::kFloat32, false); }
GLM_OPERATOR(GlmFrozenHeadLossInt4) { integer_head(given, true, Numbers::kFloat32, false); }
GLM_OPERATOR(GlmFrozenHeadLossInt8Half) { integer_head(given, false, Numbers::kHalf, false); }
GLM_OPERATOR(GlmFrozenHeadLossInt4Half) { integer_head(given, true, Numbers::kHalf, false); }
GLM_OPERATOR(GlmSmoothFrozenHeadLossInt8) { integer_head(given, false, Numbers::kFloat32, true); }
GLM_OPERATOR(GlmSmoothFrozenHeadLossInt4) { integer_head(given, true, Numbers::kFloat32, true); }
GLM_OPERATOR(GlmSmoothFrozenHeadLossInt8Half) { integer_head(given, false, Numbers::kHalf, true); }
GLM_OPERATOR(GlmSmoothFrozenHeadLossInt4Half) { integer_head(given, true, Numbers::kHalf, true); }
