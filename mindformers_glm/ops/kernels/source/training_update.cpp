// Gradients into weights: their norm, and Adam with decoupled decay in one pass over memory.
#include <cmath>
#include <memory>

#include "operators.h"
#include "parallel.h"
#include "vectors.h"

using namespace glm;

namespace {

constexpr int64_t kNumbersOfTask = 1 << 16;

inline Floats root(Floats x) {
#if defined(__AVX512F__)
  return (Floats)_mm512_sqrt_ps((__m512)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

struct Adam {
  float rate, decay, beta1, beta2, eps, factor;

  void operator()(Floats& p, Floats& m, Floats& v, Floats g) const {
    g = g * factor;
    m = m * beta1 + g * (1.0f - beta1);
    v = v * beta2 + g * g * (1.0f - beta2);
    p = p - p * decay - rate * m / (root(v) + eps);
  }
};

}  // namespace

GLM_OPERATOR(GlmSquares) {  // a gradient -> the sum of its squares (1)
  const float* x = given.floats(0);
  int64_t count = given.total(0), tasks = (count + kNumbersOfTask - 1) / kNumbersOfTask;
  auto partial = std::make_unique<double[]>(size_t(tasks));
  parallel_ranges(count, kNumbersOfTask, [&](int64_t begin, int64_t end) {
    Floats sums[4] = {};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      for (int j = 0; j < 4; ++j) {
        Floats v = load(x + i + j * kLanes);
        sums[j] += v * v;
      }
    }
    for (; i < end; i += kLanes) {
      Floats v = i + kLanes <= end ? load(x + i) : load_some(x + i, end - i);
      sums[0] += v * v;
    }
    partial[size_t(begin / kNumbersOfTask)] = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  });
  double total = 0;
  for (int64_t i = 0; i < tasks; ++i) total += partial[size_t(i)];
  given.floats(1)[0] = float(total);
}

// Parameter, both moments (written in place), gradient, numbers (6) as `Adam` has them -> the rate (1).
GLM_OPERATOR(GlmAdam) {
  float *p = given.floats(0), *m = given.floats(1), *v = given.floats(2);
  const float *g = given.floats(3), *numbers = given.floats(4);
  Adam step{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
  parallel_ranges(given.total(0), kNumbersOfTask, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      Floats weight = load(p + i), mean = load(m + i), square = load(v + i);
      step(weight, mean, square, load(g + i));
      store(p + i, weight);
      store(m + i, mean);
      store(v + i, square);
    }
    if (int64_t some = end - i; some > 0) {
      Floats weight = load_some(p + i, some), mean = load_some(m + i, some), square = load_some(v + i, some);
      step(weight, mean, square, load_some(g + i, some));
      store_some(p + i, weight, some);
      store_some(m + i, mean, some);
      store_some(v + i, square, some);
    }
  });
  given.floats(5)[0] = numbers[0];
}
