// Runs whole forwards and single matmuls of random odd sizes over memory that ends where the numbers end, so that a
// sanitizer sees every step outside. Built and run by test_kernels_sanitized.py.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "network.cpp"
#include "packing.h"

namespace {

std::mt19937 random_bits(7);

int64_t pick(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint32_t(high - low + 1)); }

struct Exact {  // not rounded up, unlike a vector's capacity
  explicit Exact(int64_t bytes) : data(static_cast<char*>(std::malloc(size_t(bytes)))) {
    for (int64_t i = 0; i < bytes; ++i) data[i] = char(random_bits());
  }
  ~Exact() { std::free(data); }
  char* data;
};

std::vector<std::unique_ptr<Exact>> kept;

template <class T>
T* bytes(int64_t count) {
  kept.push_back(std::make_unique<Exact>(count * int64_t(sizeof(T))));
  return reinterpret_cast<T*>(kept.back()->data);
}

float* floats(int64_t count) {
  float* made = bytes<float>(count);
  for (int64_t i = 0; i < count; ++i) made[i] = (float(random_bits() % 1000) / 500 - 1) * 0.3f;
  return made;
}

uint16_t* halves(int64_t count) {
  uint16_t* made = bytes<uint16_t>(count);
  for (int64_t i = 0; i < count; ++i) made[i] = uint16_t(0x1c00 + random_bits() % 64);  // about 0.004 as float16
  return made;
}

Linear weight(int64_t rows, int64_t columns, int32_t kind, int32_t group) {
  Linear w{};
  w.rows = rows;
  w.columns = columns;
  w.kind = kind;
  w.group = group;
  if (kind == kFloat32) w.weight = floats(rows * columns);
  if (kind == kBfloat16 || kind == kFloat16) w.weight = halves(rows * columns);
  if (kind == kInt8 || kind == kW8A8) w.weight = bytes<int8_t>(rows * columns);
  if (kind == kInt4) w.weight = bytes<uint8_t>(rows * ((columns + 127) / 128 * 64));
  if (kind == kW8A8) {
    w.group = int32_t(columns);
    w.row_scale = floats(rows);
    w.input_scale = pick(0, 1) ? 0.01f : 0.0f;
    w.input_offset = float(pick(-128, 127));
    int32_t* bias = bytes<int32_t>(rows);
    for (int64_t i = 0; i < rows; ++i) bias[i] = int32_t(pick(-1000, 1000));
    if (pick(0, 1)) w.row_bias = bias;
  }
  if (kind >= kInt8) {
    if (kind != kW8A8) w.scale = halves(rows * (columns / group));
    if (pick(0, 1)) {
      Linear packed = w;
      packed.layout = kPanels;
      void* bytes_of = kind != kInt4 ? (void*)bytes<int8_t>(rows * columns)
                                     : (void*)bytes<uint8_t>(rows * ((columns + 127) / 128 * 64));
      uint16_t* scales = kind == kW8A8 ? nullptr : halves(rows * (columns / group));
      glm_pack(&w, bytes_of, scales);
      packed.weight = bytes_of;
      packed.scale = scales;
      return packed;
    }
  }
  return w;
}

void with_bias(Linear& w) {
  w.bias = floats(w.rows);
  w.bias_kind = kFloat32;
}

// Two adapters, of which one may do nothing, for rows of adapter 0 and 1.
void with_adapters(Linear& w) {
  auto* loras = bytes<Lora>(2);
  for (int i = 0; i < 2; ++i) {
    loras[i] = {};
    if (i == 1 && pick(0, 1)) continue;
    int64_t rank = pick(1, 9);
    auto* parts = bytes<Linear>(2);
    parts[0] = weight(rank, w.columns, kFloat32, 32);
    parts[1] = weight(w.rows, rank, kFloat32, 32);
    loras[i] = {&parts[0], &parts[1], pick(0, 1) ? floats(w.rows) : nullptr, 0.5f};
  }
  w.loras = loras;
  w.num_loras = 2;
}

bool all_finite(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(x[i])) return false;
  return true;
}

bool one_matmul(void* space) {
  int32_t kind = int32_t(pick(0, 5));
  int64_t group = 16 << pick(0, 3), columns = kind >= kInt8 ? group * pick(1, 5) : pick(1, 200);
  if (kind == kW8A8) columns = 4 * pick(1, 70);
  int64_t rows = pick(1, 90), m = pick(0, 1) ? pick(1, 9) : pick(10, 40);
  Linear w = weight(rows, columns, kind, int32_t(group));
  if (pick(0, 1)) with_bias(w);
  if (pick(0, 1)) with_adapters(w);
  float *x = floats(m * columns), *y = floats(m * rows);
  glm_linear(x, m, &w, y, space);
  return all_finite(y, m * rows);
}

bool one_network(void* space) {
  bool integers = pick(0, 1);
  int64_t group = 32, e = 4 * pick(1, 20), k = pick(1, 3), h = k * pick(1, 4);
  if (integers) e = 32, h = k * pick(1, 3);
  int64_t d = integers ? group * pick(1, 4) : pick(3, 100), f = integers ? group * pick(1, 5) : pick(3, 90);
  int64_t vocabulary = pick(5, 70), length = 150, prefix = pick(0, 1) * pick(1, 70);
  int32_t kind = integers ? int32_t(pick(3, 5)) : int32_t(pick(0, 2));
  GlmNorm norm = {floats(d), pick(0, 1) ? floats(d) : nullptr, kFloat32};
  std::vector<GlmLayer> layers(2);
  bool sandwich = pick(0, 1);
  for (auto& layer : layers) {
    layer = {};
    if (sandwich) layer.after_attention = layer.after_mlp = norm;
    layer.attention_norm = layer.mlp_norm = norm;
    layer.qkv = weight((h + 2 * k) * e, d, kind, 32);
    with_bias(layer.qkv);
    layer.out = weight(d, h * e, kind, 32);
    layer.gate_up = weight(2 * f, d, kind, 32);
    layer.down = weight(d, f, kind, 32);
    for (Linear* w : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down})
      if (pick(0, 1)) with_adapters(*w);
  }
  GlmNetwork net{};
  net.layers = 2, net.hidden = d, net.heads = h, net.kv_heads = k, net.head_dim = e, net.ffn = f;
  net.rotary_dim = pick(0, 1) ? e : e / 4 * 2;
  net.vocabulary = vocabulary, net.length = length, net.epsilon = 1e-5f, net.is_grouped = 1, net.has_final_norm = 1;
  net.residual_is_norm = int32_t(pick(0, 1));
  net.rotary = floats(length * 2 * e);
  net.embedding = weight(vocabulary, d, integers ? int32_t(pick(3, 4)) : kFloat32, 32);
  net.embedding.layout = kRows;
  net.layer = layers.data();
  net.final_norm = norm;
  net.head = weight(vocabulary, d, kind >= kInt8 ? kInt8 : kind, 32);
  net.prefix_length = prefix;
  net.prefix = floats(2 * 2 * k * prefix * e);
  const int64_t rows = 3, slots = length, most_blocks = (slots + kSlots - 1) / kSlots;
  const int32_t cache_kinds[] = {kFloat32, kFloat16, kInt8};
  int32_t cache_kind = cache_kinds[pick(0, 2)];
  std::vector<char*> blocks;
  for (int64_t i = 0; i < rows * most_blocks; ++i) blocks.push_back(bytes<char>(glm_block_bytes(&net, cache_kind)));
  std::vector<int32_t> lengths(size_t(rows), 0);
  int32_t* adapters = pick(0, 1) ? bytes<int32_t>(rows) : nullptr;
  for (int64_t r = 0; adapters != nullptr && r < rows; ++r) adapters[r] = int32_t(pick(-1, 2));  // -1 and 2: no adapter
  for (int round = 0; round < 3; ++round) {
    int32_t* counts = bytes<int32_t>(rows);
    int64_t width = 0;
    for (int64_t r = 0; r < rows; ++r) {
      counts[r] = int32_t(round == 2 ? slots - lengths[size_t(r)] : pick(r == 0, round == 0 ? 70 : 2));
      width = std::max<int64_t>(width, counts[r]);
    }
    int32_t* tokens = bytes<int32_t>(rows * width);
    for (int64_t i = 0; i < rows * width; ++i) tokens[i] = int32_t(pick(0, vocabulary - 1));
    int32_t* wanted = bytes<int32_t>(1);
    wanted[0] = 0;
    float* logits = floats(vocabulary);
    GlmStep step{};
    step.sequences = rows, step.width = width, step.num_wanted = counts[0] == 0 ? 0 : 1, step.most_blocks = most_blocks;
    step.tokens = tokens, step.counts = counts, step.lengths = lengths.data(), step.adapters = adapters;
    step.blocks = blocks.data(), step.wanted = wanted, step.logits = logits, step.cache_kind = cache_kind;
    glm_forward(&net, &step, space);
    if (!all_finite(logits, vocabulary)) return false;
    for (int64_t r = 0; r < rows; ++r) lengths[size_t(r)] += counts[r];
  }
  return true;
}

}  // namespace

int main() {
  glm_set_threads(3);
  void* space = glm_new_workspace();
  int wrong = 0;
  for (int i = 0; i < 300; ++i) {
    wrong += !one_matmul(space);
    if (i % 5 == 0) wrong += !one_network(space);
    kept.clear();
  }
  glm_free_workspace(space);
  std::printf("%d results are not finite\n", wrong);
  return wrong != 0;
}
