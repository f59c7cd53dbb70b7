// The next token of every sequence from its logits: penalties, bans, filters, the draw, log-probabilities. What each
// step means is stated in generation/sampling.py, whose NumPy formulas give the same tokens.
#include "choosing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "vectors.h"

using namespace glm;

namespace {

constexpr int64_t kCandidates = 256;  // top-p looks at so many best tokens before it sorts the whole vocabulary

// Of two ids the one that comes first, best first: a larger logit, or the smaller id.
struct Better {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }
};

struct Scratch {
  std::vector<float> logits;
  std::vector<int32_t> times;  // that an id was met
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

float largest(const float* x, int64_t count) {
  Floats best = splat(-INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = larger(load(x + i), best);
  float top = highest(best);
  for (; i < count; ++i) top = std::max(top, x[i]);
  return top;
}

bool are_numbers(const float* x, int64_t count) {
  Ints faults = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Floats v = load(x + i);
    faults |= v != v;
  }
  int32_t any = 0;
  for (int j = 0; j < kLanes; ++j) any |= faults[j];
  for (; i < count; ++i) any |= x[i] != x[i];
  return any == 0;
}

int32_t first_best(const float* x, int64_t count) {
  float top = largest(x, count);
  int64_t i = 0;
  while (i + kLanes <= count && highest(load(x + i)) < top) i += kLanes;
  while (i + 1 < count && x[i] < top) ++i;
  return int32_t(i);
}

// Sum of e^((x - top) / temperature).
double mass(const float* x, int64_t count, float top, double temperature) {
  constexpr int64_t kPiece = 1024;
  double total = 0;
  float inverse = float(1.0 / temperature);
  auto lowest_is_none = [](Floats shifted) { return choose(shifted < -87.0f, Floats{}, exponential(shifted)); };
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    int64_t end = std::min(count, begin + kPiece), i = begin;
    Floats sums = {};
    for (; i + kLanes <= end; i += kLanes) sums += lowest_is_none((load(x + i) - top) * inverse);
    total += double(sum(sums));
    for (; i < end; ++i) total += std::exp(double((x[i] - top) * inverse));
  }
  return total;
}

// The `count` best ids in any order, and with `ties` all that are as good as the last of them.
void best_ids(const float* x, int64_t size, int64_t count, bool ties, std::vector<int32_t>& ids) {
  Better better{x};
  ids.clear();
  float limit = -INFINITY;
  size_t full = size_t(2 * count + 64);
  auto take = [&](int32_t id) {
    ids.push_back(id);
    if (ids.size() < full) return;
    std::nth_element(ids.begin(), ids.begin() + count - 1, ids.end(), better);
    limit = x[ids[size_t(count - 1)]];
    ids.erase(std::remove_if(ids.begin() + count, ids.end(), [&](int32_t id) { return x[id] < limit; }), ids.end());
    if (!ties) ids.resize(size_t(count));
    full = std::max(full, 2 * ids.size());
  };
  for (int64_t i = 0; i < size; i += kLanes) {
    int64_t some = std::min<int64_t>(kLanes, size - i);
    if (some == kLanes && highest(load(x + i)) < limit) continue;
    for (int64_t j = i; j < i + some; ++j)
      if (x[j] >= limit) take(int32_t(j));
  }
  if (int64_t(ids.size()) <= count) return;
  std::nth_element(ids.begin(), ids.begin() + count - 1, ids.end(), better);
  limit = x[ids[size_t(count - 1)]];
  if (!ties) {
    ids.resize(size_t(count));
  } else {
    ids.erase(std::remove_if(ids.begin() + count, ids.end(), [&](int32_t id) { return x[id] < limit; }), ids.end());
  }
}

int32_t draw(const float* x, int64_t size, const GlmChoice& row, Scratch& space) {
  bool first_k = row.top_k > 0 && row.top_k < size, first_p = row.top_p < 1;
  auto& ids = space.ids;
  auto& weights = space.weights;
  float top = largest(x, size);
  if (first_k) {
    best_ids(x, size, row.top_k, true, ids);
    ids.erase(std::remove_if(ids.begin(), ids.end(), [&](int32_t id) { return x[id] == -INFINITY; }), ids.end());
  } else if (first_p && size > kCandidates) {
    best_ids(x, size, kCandidates, false, ids);
  }
  double total = first_p && !first_k ? mass(x, size, top, row.temperature) : 0;
  auto weigh = [&] {
    double sum = 0;
    weights.resize(ids.size());
    for (size_t i = 0; i < ids.size(); ++i)
      sum += weights[i] = std::exp(double(x[ids[i]]) / row.temperature - double(top) / row.temperature);
    return sum;
  };
  bool everything = !first_k && (!first_p || size <= kCandidates);
  if (first_p && !first_k && !everything) everything = weigh() < row.top_p * total;  // a few of the best do not suffice
  if (everything) {
    ids.resize(size_t(size));
    for (int64_t i = 0; i < size; ++i) ids[size_t(i)] = int32_t(i);
  }
  if (first_k || first_p) std::sort(ids.begin(), ids.end(), Better{x});
  double sum = weigh();
  if (first_p) {
    double limit = row.top_p * (first_k || everything ? sum : total), passed = 0;
    size_t kept = 0;
    while (kept < ids.size()) {
      passed += weights[kept++];
      if (passed >= limit) break;
    }
    ids.resize(kept);
    sum = passed;
  }
  double passed = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    passed += weights[i] / sum;
    if (passed > row.uniform) return ids[i];
  }
  size_t last = ids.size() - 1;  // sums of rounded numbers may end below 1
  while (last > 0 && weights[last] == 0) --last;
  return ids[last];
}

// Forbids what the mask does not allow.
void apply_mask(float* x, int64_t size, const GlmChoice& row) {
  int64_t known = std::min(size, row.mask_bytes * 8);
  for (int64_t byte = 0; byte * 8 < known; ++byte) {
    uint8_t bits = row.mask[byte];
    if (bits == 0xff) continue;
    int64_t end = std::min<int64_t>(known, byte * 8 + 8);
    if (bits == 0) {
      std::fill(x + byte * 8, x + end, -INFINITY);
      continue;
    }
    for (int64_t i = byte * 8; i < end; ++i)
      if (!((bits >> (i - byte * 8)) & 1)) x[i] = -INFINITY;
  }
  std::fill(x + known, x + size, -INFINITY);
}

bool forbids(const GlmChoice& row) { return row.num_banned > 0 || row.mask != nullptr || row.ngram > 0; }

// Calls work(id, times) for each id of the vocabulary among so many, once, with how often it is there.
template <class Work>
void each_of(const int32_t* ids, int64_t count, int64_t size, Scratch& space, Work work) {
  auto& times = space.times;
  if (int64_t(times.size()) < size) times.assign(size_t(size), 0);
  auto known = [&](int64_t i) { return ids[i] >= 0 && ids[i] < size; };
  for (int64_t i = 0; i < count; ++i)
    if (known(i)) ++times[size_t(ids[i])];
  for (int64_t i = 0; i < count; ++i) {
    if (!known(i) || times[size_t(ids[i])] == 0) continue;
    work(ids[i], times[size_t(ids[i])]);
    times[size_t(ids[i])] = 0;  // all are 0 again afterwards
  }
}

// Forbids what would end an n-gram that the sequence holds already.
void forbid_ngrams(float* x, int64_t size, const GlmChoice& row) {
  int64_t before = row.ngram - 1;
  if (row.num_ids <= before) return;
  const int32_t* tail = row.ids + row.num_ids - before;
  for (int64_t i = 0; i + before < row.num_ids; ++i) {
    int32_t end = row.ids[i + before];
    if (end >= 0 && end < size && std::equal(tail, tail + before, row.ids + i)) x[end] = -INFINITY;
  }
}

// Logits after penalties, biases, the mask and the bans: the logits themselves where there are none.
const float* edited(const float* x, int64_t size, const GlmChoice& row, Scratch& space) {
  float penalty = float(row.penalty);
  bool penalised = penalty != 1.0f && row.num_ids > 0;
  bool lowered = (row.presence != 0 || row.frequency != 0) && row.num_new > 0;
  if (!penalised && !lowered && row.num_biased == 0 && !forbids(row)) return x;
  space.logits.assign(x, x + size);
  float* y = space.logits.data();
  if (penalised) {
    each_of(row.ids, row.num_ids, size, space,
            [&](int32_t id, int32_t) { y[id] = y[id] < 0 ? y[id] * penalty : y[id] / penalty; });
  }
  for (int64_t i = 0; i < row.num_biased; ++i)
    if (row.biased[i] >= 0 && row.biased[i] < size) y[row.biased[i]] += row.biases[i];
  if (lowered) {
    each_of(row.ids + row.num_ids - row.num_new, row.num_new, size, space,
            [&](int32_t id, int32_t times) { y[id] -= float(row.presence + row.frequency * double(times)); });
  }
  if (row.mask != nullptr) apply_mask(y, size, row);
  if (row.ngram > 0) forbid_ngrams(y, size, row);
  for (int64_t i = 0; i < row.num_banned; ++i)
    if (row.banned[i] >= 0 && row.banned[i] < size) y[row.banned[i]] = -INFINITY;
  return y;
}

void choose(const float* raw, int64_t size, GlmChoice& row) {
  static thread_local Scratch space;
  if (!are_numbers(raw, size)) {
    row.token = -2;
    return;
  }
  const float* x = edited(raw, size, row, space);
  if (forbids(row) && largest(x, size) == -INFINITY) {
    row.token = -1;
    return;
  }
  row.token = row.is_greedy ? first_best(x, size) : draw(x, size, row, space);
  if (!row.wants_logprob) return;
  float top = largest(raw, size);
  double log_total = std::log(mass(raw, size, top, 1.0));
  auto logprob = [&](int32_t id) { return double(raw[id]) - double(top) - log_total; };
  row.logprob = logprob(row.token);
  if (row.num_best == 0) return;
  best_ids(raw, size, row.num_best, false, space.ids);
  std::sort(space.ids.begin(), space.ids.end(), Better{raw});
  for (int64_t i = 0; i < row.num_best; ++i) {
    row.best[i] = space.ids[size_t(i)];
    row.best_logprobs[i] = logprob(row.best[i]);
  }
}

}  // namespace

int glm_choose(const float* logits, int64_t vocabulary, GlmChoice* choices, int64_t count) try {
  parallel_for(count, [&](int64_t i) { choose(logits + choices[i].row * vocabulary, vocabulary, choices[i]); });
  return 0;
} catch (const std::bad_alloc&) {
  return 1;
}
