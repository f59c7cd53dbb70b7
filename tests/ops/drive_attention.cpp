// Attention over the cache against its formula in float64 over the numbers that the cache gives back, for odd shapes;
// and a token at a time against all at once, bit for bit. Prints the largest error of each type beside that of float32.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "cached_attention.h"
#include "parallel.h"

using namespace glm;

namespace {

uint64_t state = 88172645463325252ull;
uint64_t random_bits() {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
int64_t pick(int64_t low, int64_t high) { return low + int64_t(random_bits() % uint64_t(high - low + 1)); }
float number() { return float(random_bits() % 20001) / 10000 - 1; }
std::vector<float> numbers(int64_t count, float size) {
  std::vector<float> made(size_t(count), 0.0f);
  for (auto& x : made) x = number() * size;
  return made;
}

struct Case {
  CacheForm form;
  int64_t group, tokens, past, prefix;
  std::vector<float> q, keys, values, prefix_keys, prefix_values;
  std::vector<std::vector<char>> memory;
  std::vector<char*> blocks;

  Case(int32_t kind, int64_t e) : form{kept_kind(kind, e, false), pick(1, 2), e}, group(pick(1, 9)) {
    tokens = pick(0, 3) == 0 ? pick(60, 200) : pick(1, 20), past = pick(0, 1) * pick(0, 300),
    prefix = pick(0, 1) * pick(0, 70);
    int64_t k = form.kv_heads, slots = past + tokens;
    q = numbers(tokens * k * group * e, 0.5f);
    keys = numbers(slots * k * e, 2), values = numbers(slots * k * e, 1);
    if (pick(0, 1) == 1)
      for (int64_t i = 0; i < slots * k; ++i) keys[size_t(i * e + 3)] += 20;  // a channel far above the others
    prefix_keys = numbers(k * prefix * e, 2), prefix_values = numbers(k * prefix * e, 1);
    for (int64_t i = 0; i < (slots + kSlots - 1) / kSlots; ++i) {
      memory.emplace_back(size_t(k * form.head_bytes()), char(0xff));  // what is not there is not a number
      blocks.push_back(memory.back().data());
    }
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t h = 0; h < k; ++h) {
        float *key = &keys[size_t((s * k + h) * e)], *value = &values[size_t((s * k + h) * e)];
        char* head = form.head(blocks[size_t(s / kSlots)], 0, h);
        put_in_cache(form, head, s % kSlots, key, value);
        read_from_cache(form, head, s % kSlots, key, value);
      }
    }
  }

  std::vector<float> attend(int64_t together) {
    int64_t width = form.kv_heads * group * form.head_dim;
    std::vector<float> out(size_t(tokens * width), 0.0f);
    Attention shape = {form.kv_heads * group, form, 0, prefix_keys.data(), prefix_values.data(), prefix, false};
    for (int64_t t = 0; t < tokens; t += together) {
      Sequence s = {t, std::min(together, tokens - t), past + t, blocks.data()};
      cached_attention(shape, &s, 1, q.data(), out.data());
    }
    return out;
  }

  // The largest difference to the formula, beside the size of values, which is 1.
  double error(const std::vector<float>& found) {
    int64_t k = form.kv_heads, e = form.head_dim;
    double worst = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < k * group; ++h) {
        const float* query = &q[size_t((t * k * group + h) * e)];
        std::vector<const float*> rows;
        std::vector<double> weights;
        auto see = [&](const float* key, const float* value) {
          double score = 0;
          for (int64_t c = 0; c < e; ++c) score += double(query[c]) * key[c];
          weights.push_back(score), rows.push_back(value);
        };
        for (int64_t s = 0; s < prefix; ++s)
          see(&prefix_keys[size_t((h / group * prefix + s) * e)], &prefix_values[size_t((h / group * prefix + s) * e)]);
        for (int64_t s = 0; s <= past + t; ++s)
          see(&keys[size_t((s * k + h / group) * e)], &values[size_t((s * k + h / group) * e)]);
        double top = *std::max_element(weights.begin(), weights.end()), total = 0;
        for (auto& w : weights) total += w = std::exp(w - top);
        for (int64_t c = 0; c < e; ++c) {
          double sum = 0;
          for (size_t i = 0; i < rows.size(); ++i) sum += weights[i] / total * rows[i][c];
          double away = std::fabs(sum - found[size_t((t * k * group + h) * e + c)]);
          if (!(away <= worst)) worst = away;
        }
      }
    }
    return worst;
  }
};

}  // namespace

int main() {
  set_threads(3);
  int differ = 0;
  for (int32_t kind : {kFloat32, kFloat16, kInt8}) {
    double worst = 0;
    for (int64_t e : {4, 20, 32, 64, 80, 96, 128}) {
      for (int i = 0; i < 12; ++i) {
        Case one(kind, e);
        auto together = one.attend(one.tokens);
        differ += together != one.attend(1);
        differ += together != one.attend(7);
        double away = one.error(together);
        if (!(away <= worst)) worst = away;
      }
    }
    std::printf("%.3g ", worst);
  }
  std::printf("%d\n", differ);
}
