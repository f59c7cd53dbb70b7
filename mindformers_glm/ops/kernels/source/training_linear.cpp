// y = x W^T + b for training: forward, and the gradients of x, W and b. x (N, in), W (out, in), b (out).
#include <algorithm>
#include <vector>

#include "matmul.h"
#include "operators.h"
#include "parallel.h"
#include "vectors.h"

using namespace glm;

namespace {

void forward(const Arguments& given, const float* bias, int out, Numbers numbers) {
  int64_t n = given.size(0, 0), k = given.size(0, 1), m = given.size(1, 0);
  matmul(rows_of(given.floats(0), n, k), rows_of(given.floats(1), m, k), k, given.floats(out), m, bias, false, numbers);
}

void back_x(const Arguments& given, Numbers numbers) {  // dy (N, out), W -> dx
  int64_t n = given.size(0, 0), m = given.size(0, 1), k = given.size(1, 1);
  matmul(rows_of(given.floats(0), n, m), columns_of(given.floats(1), m, k), m, given.floats(2), k, nullptr, false,
         numbers);
}

void back_weight(const Arguments& given, Numbers numbers) {  // dy (N, out), x (N, in) -> dW
  int64_t n = given.size(0, 0), m = given.size(0, 1), k = given.size(1, 1);
  matmul(columns_of(given.floats(0), n, m), columns_of(given.floats(1), n, k), n, given.floats(2), k, nullptr, false,
         numbers);
}

}  // namespace

GLM_OPERATOR(GlmLinear) { forward(given, nullptr, 2, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearHalf) { forward(given, nullptr, 2, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearBias) { forward(given, given.floats(2), 3, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearBiasHalf) { forward(given, given.floats(2), 3, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearDouble) { forward(given, nullptr, 2, Numbers::kDouble); }
GLM_OPERATOR(GlmLinearBiasDouble) { forward(given, given.floats(2), 3, Numbers::kDouble); }
GLM_OPERATOR(GlmLinearBackX) { back_x(given, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearBackXHalf) { back_x(given, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearBackWeight) { back_weight(given, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearBackWeightHalf) { back_weight(given, Numbers::kHalf); }

GLM_OPERATOR(GlmLinearBackBias) {  // dy (N, out) -> db
  int64_t n = given.size(0, 0), m = given.size(0, 1);
  const float* dy = given.floats(0);
  float* db = given.floats(1);
  parallel_ranges(m, 256, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(size_t(end - begin), 0.0);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = begin; j < end; ++j) sums[size_t(j - begin)] += dy[i * m + j];
    }
    for (int64_t j = begin; j < end; ++j) db[j] = float(sums[size_t(j - begin)]);
  });
}
