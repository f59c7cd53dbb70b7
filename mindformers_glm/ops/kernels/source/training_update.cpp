// Gradients into weights: their norm, and Adam with decoupled decay in one pass over memory.
#include <cmath>
#include <cstring>
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
#elif defined(__AVX2__)
  return {(FloatRegister)_mm256_sqrt_ps((__m256)x.low), (FloatRegister)_mm256_sqrt_ps((__m256)x.high)};
#else
  float numbers[kLanes];
  store(numbers, x);
  for (float& number : numbers) number = std::sqrt(number);
  return load(numbers);
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

inline Bits bits_of(Floats v) { return bits_as<Bits>(v); }

// Sixteen bits of noise, which follow from the numbers at hand, so that a run can be repeated.
inline Bits noise(Floats a, Floats b) {
  Bits h = bits_of(a) * 0x9e3779b1u ^ bits_of(b) * 0x85ebca6bu;
  h = (h ^ (h >> 15)) * 0x2c1b3c6du;
  return (h ^ (h >> 13)) & 0xffffu;
}

// To bfloat16, up as often as the number is near the upper one: a moment that changes by less than a step still moves.
inline void store_rounded(uint16_t* p, Floats v, Bits dither, int64_t count) {
  uint16_t halves[kLanes];
  write(halves, convert<Halves>((bits_of(v) + dither) >> 16));
  std::memcpy(p, halves, size_t(count) * 2);
}

inline Floats load_some_bfloats(const uint16_t* p, int64_t count) {
  if (count == kLanes) return load_bfloats(p);
  uint16_t all[kLanes] = {};
  std::memcpy(all, p, size_t(count) * 2);
  return load_bfloats(all);
}

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

// The same with both moments in bfloat16.
GLM_OPERATOR(GlmAdamHalfStates) {
  float* p = given.floats(0);
  auto *m = (uint16_t*)given.data[1], *v = (uint16_t*)given.data[2];
  const float *g = given.floats(3), *numbers = given.floats(4);
  Adam step{numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
  parallel_ranges(given.total(0), kNumbersOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) {
      int64_t some = end - i < kLanes ? end - i : kLanes;
      Floats weight = load_some(p + i, some), gradient = load_some(g + i, some);
      Floats mean = load_some_bfloats(m + i, some), square = load_some_bfloats(v + i, some);
      step(weight, mean, square, gradient);
      store_some(p + i, weight, some);
      store_rounded(m + i, mean, noise(mean, gradient), some);
      store_rounded(v + i, square, noise(square, weight), some);
    }
  });
  given.floats(5)[0] = numbers[0];
}
