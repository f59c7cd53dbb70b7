// y = x W^T for a weight of integers inside MindSpore's graphs: x (M, K), W (N, K) packed, scale (N, K / group) -> y
// (M, N). For inference activations are rounded to 8 bits; for training ("Exact") they are floats and so is what the
// weight stands for, forward and in dx = dy W: dy (M, N) -> dx (M, K).
#include "linear.h"
#include "matmul.h"
#include "operators.h"
#include "widen.h"

using namespace glm;

namespace {

void run(const Arguments& given, int32_t kind) {
  static thread_local Workspace space;
  Linear w{};
  w.weight = given.data[1];
  w.scale = static_cast<const uint16_t*>(given.data[2]);
  w.rows = given.size(1, 0);
  w.columns = given.size(0, 1);
  w.kind = kind;
  w.group = int32_t(w.columns / given.size(2, 1));
  linear(given.floats(0), given.size(0, 0), w, given.floats(3), kWrite, space);
}

// x (M, K), weight int8 (N, K), row_scale (N), row_bias int32 (N), input (2): scale, 0 for one of each token's own, and
// offset -> y (M, N).
void whole(const Arguments& given) {
  static thread_local Workspace space;
  Linear w{};
  w.weight = given.data[1];
  w.rows = given.size(1, 0);
  w.columns = w.group = int32_t(given.size(1, 1));
  w.kind = kW8A8;
  w.row_scale = given.floats(2);
  w.row_bias = given.ints(3);
  w.input_scale = given.floats(4)[0];
  w.input_offset = given.floats(4)[1];
  linear(given.floats(0), given.size(0, 0), w, given.floats(5), kWrite, space);
}

Integers integers(const Arguments& given, int64_t columns, bool four) {
  return {static_cast<const uint8_t*>(given.data[1]),
          static_cast<const uint16_t*>(given.data[2]),
          given.size(1, 0),
          columns,
          columns / given.size(2, 1),
          four};
}

void exact(const Arguments& given, bool four, Numbers numbers) {
  int64_t m = given.size(0, 0), k = given.size(0, 1);
  Integers w = integers(given, k, four);
  matmul(rows_of(given.floats(0), m, k), rows_of(w), k, given.floats(3), w.rows, nullptr, false, numbers);
}

void exact_back(const Arguments& given, bool four, Numbers numbers) {
  int64_t m = given.size(0, 0), n = given.size(0, 1), k = given.size(3, 1);
  Integers w = integers(given, k, four);
  matmul(rows_of(given.floats(0), m, n), columns_of(w), n, given.floats(3), k, nullptr, false, numbers);
}

}  // namespace

GLM_OPERATOR(GlmLinearInt8) { run(given, kInt8); }
GLM_OPERATOR(GlmLinearInt4) { run(given, kInt4); }
GLM_OPERATOR(GlmLinearW8A8) { whole(given); }
GLM_OPERATOR(GlmLinearExactInt8) { exact(given, false, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearExactInt4) { exact(given, true, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearExactInt8Half) { exact(given, false, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearExactInt4Half) { exact(given, true, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearBackXInt8) { exact_back(given, false, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearBackXInt4) { exact_back(given, true, Numbers::kFloat32); }
GLM_OPERATOR(GlmLinearBackXInt8Half) { exact_back(given, false, Numbers::kHalf); }
GLM_OPERATOR(GlmLinearBackXInt4Half) { exact_back(given, true, Numbers::kHalf); }
