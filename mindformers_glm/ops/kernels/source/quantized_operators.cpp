// y = x W^T for a weight of integers inside MindSpore's graphs: x (M, K), W (N, K) packed, scale (N, K / group) -> y
// (M, N).
#include "linear.h"
#include "operators.h"

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

}  // namespace

GLM_OPERATOR(GlmLinearInt8) { run(given, kInt8); }
GLM_OPERATOR(GlmLinearInt4) { run(given, kInt4); }
