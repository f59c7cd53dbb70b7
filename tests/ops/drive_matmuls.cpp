// Matmuls that a file describes: `drive CASES RESULTS` (test_kernels_arm.py writes the one and reads the other). For
// kernels of another kind of CPU, under an emulator. Of each case it gives x W^T with W in rows, then with W in panels,
// then with W in panels and each row of x alone.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "network.h"

namespace {

struct Case {
  int64_t kind, rows, columns, group, tokens, weight_bytes, num_scales, has_row_bias;
  float input_scale, input_offset;
};

template <class T>
std::vector<T> read(std::FILE* from, int64_t count) {
  std::vector<T> found(static_cast<size_t>(count));
  if (std::fread(found.data(), sizeof(T), found.size(), from) != found.size()) std::exit(1);
  return found;
}

}  // namespace

int main(int, char** arguments) {
  std::FILE *cases = std::fopen(arguments[1], "rb"), *results = std::fopen(arguments[2], "wb");
  if (cases == nullptr || results == nullptr) return 1;
  glm_set_threads(2);
  void* space = glm_new_workspace();
  Case c;
  while (std::fread(&c, sizeof c, 1, cases) == 1) {
    auto weight = read<uint8_t>(cases, c.weight_bytes);
    auto scale = read<uint16_t>(cases, c.num_scales);
    bool whole = c.kind == glm::kW8A8;
    auto row_scale = read<float>(cases, whole ? c.rows : 0);
    auto row_bias = read<int32_t>(cases, c.has_row_bias ? c.rows : 0);
    auto x = read<float>(cases, c.tokens * c.columns);
    glm::Linear rows{};
    rows.weight = weight.data(), rows.scale = whole ? nullptr : scale.data();
    rows.rows = c.rows, rows.columns = c.columns, rows.kind = int32_t(c.kind), rows.group = int32_t(c.group);
    rows.input_scale = c.input_scale, rows.input_offset = c.input_offset, rows.row_scale = row_scale.data();
    rows.row_bias = c.has_row_bias ? row_bias.data() : nullptr;
    glm::Linear panels = rows;
    auto packed = weight;
    auto packed_scale = scale;
    if (c.kind >= glm::kInt8) {
      glm_pack(&rows, packed.data(), whole ? nullptr : packed_scale.data());
      panels.weight = packed.data(), panels.scale = rows.scale == nullptr ? nullptr : packed_scale.data();
      panels.layout = glm::kPanels;
    }
    std::vector<float> y(static_cast<size_t>(3 * c.tokens * c.rows));
    float* out = y.data();
    glm_linear(x.data(), c.tokens, &rows, out, space);
    glm_linear(x.data(), c.tokens, &panels, out + c.tokens * c.rows, space);
    for (int64_t t = 0; t < c.tokens; ++t)
      glm_linear(x.data() + t * c.columns, 1, &panels, out + (2 * c.tokens + t) * c.rows, space);
    if (std::fwrite(y.data(), sizeof(float), y.size(), results) != y.size()) return 1;
  }
  glm_free_workspace(space);
  return std::fclose(results);
}
