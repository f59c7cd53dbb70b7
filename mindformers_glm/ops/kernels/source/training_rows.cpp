// RMSNorm and SwiGLU of each token, forward and backward.
#include <cmath>
#include <vector>

#include "operators.h"
#include "parallel.h"
#include "vectors.h"

using namespace glm;

namespace {

constexpr int64_t kRowsOfTask = 32;

// Calls work(j, some) for the numbers of a row, sixteen at a time; `some` is how many there are.
template <class Work>
inline void along(int64_t count, const Work& work) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) work(j, kLanes);
  if (j < count) work(j, count - j);
}

inline Floats get(const float* p, int64_t some) { return some == kLanes ? load(p) : load_some(p, some); }

inline void put(float* p, Floats v, int64_t some) {
  if (some == kLanes) {
    store(p, v);
  } else {
    store_some(p, v, some);
  }
}

inline float inverse_size(const float* x, int64_t count, float eps) {
  Doubles total = {};
  along(count, [&](int64_t j, int64_t some) { total += squares(get(x + j, some)); });
  return float(1.0 / std::sqrt(sum(total) / double(count) + double(eps)));
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace

GLM_OPERATOR(GlmRmsNorm) {  // x (N, D), weight (D), eps (1) -> y
  int64_t n = given.size(0, 0), d = given.size(0, 1);
  const float *x = given.floats(0), *weight = given.floats(1);
  float eps = given.floats(2)[0], *y = given.floats(3);
  parallel_ranges(n, kRowsOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float scale = inverse_size(x + i * d, d, eps);
      along(d, [&](int64_t j, int64_t some) {
        put(y + i * d + j, get(x + i * d + j, some) * scale * get(weight + j, some), some);
      });
    }
  });
}

// x (N, D), weight (D), eps (1), slope and beside (N, D) -> dx, dweight. See ops/rms_norm.py.
GLM_OPERATOR(GlmRmsNormBack) {
  int64_t n = given.size(0, 0), d = given.size(0, 1), tasks = (n + kRowsOfTask - 1) / kRowsOfTask;
  const float *x = given.floats(0), *weight = given.floats(1), *slope = given.floats(3), *beside = given.floats(4);
  float eps = given.floats(2)[0], *dx = given.floats(5), *dweight = given.floats(6);
  std::vector<float> partial(size_t(tasks * d), 0.0f);
  parallel_ranges(n, kRowsOfTask, [&](int64_t begin, int64_t end) {
    float* own = partial.data() + begin / kRowsOfTask * d;
    for (int64_t i = begin; i < end; ++i) {
      const float *row = x + i * d, *dy = slope + i * d;
      float scale = inverse_size(row, d, eps);
      Floats dots = {};
      along(d, [&](int64_t j, int64_t some) {
        Floats both = get(dy + j, some) * get(row + j, some);
        dots += both * get(weight + j, some);
        put(own + j, get(own + j, some) + both * scale, some);
      });
      float shared = sum(dots) * scale * scale * scale / float(d);
      along(d, [&](int64_t j, int64_t some) {
        Floats back = get(dy + j, some) * get(weight + j, some) * scale - get(row + j, some) * shared;
        put(dx + i * d + j, back + get(beside + i * d + j, some), some);
      });
    }
  });
  for (int64_t j = 0; j < d; ++j) {
    double total = 0;
    for (int64_t task = 0; task < tasks; ++task) total += partial[size_t(task * d + j)];
    dweight[j] = float(total);
  }
}

GLM_OPERATOR(GlmSwiglu) {  // rows gate | up (N, 2 F) -> (N, F)
  int64_t n = given.size(0, 0), f = given.size(0, 1) / 2;
  const float* x = given.floats(0);
  float* y = given.floats(1);
  parallel_ranges(n, kRowsOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* gate = x + i * 2 * f;
      along(f, [&](int64_t j, int64_t some) {
        put(y + i * f + j, silu(get(gate + j, some)) * get(gate + f + j, some), some);
      });
    }
  });
}

GLM_OPERATOR(GlmSwigluBack) {  // rows gate | up (N, 2 F), dy (N, F) -> dx (N, 2 F)
  int64_t n = given.size(0, 0), f = given.size(0, 1) / 2;
  const float *x = given.floats(0), *slope = given.floats(1);
  float* dx = given.floats(2);
  parallel_ranges(n, kRowsOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *gates = x + i * 2 * f, *dy = slope + i * f;
      float* out = dx + i * 2 * f;
      along(f, [&](int64_t j, int64_t some) {
        Floats gate = get(gates + j, some), up = get(gates + f + j, some), dout = get(dy + j, some);
        Floats open = sigmoid(gate), through = gate * open;
        put(out + j, dout * up * (open + through - through * open), some);
        put(out + f + j, dout * through, some);
      });
    }
  });
}
