#include "packing.h"

#include <algorithm>
#include <cstring>

#include "panels.h"
#include "parallel.h"

namespace glm {
namespace {

constexpr uint32_t kOffsets = 0x80808080u;

// Words [first, first + 16) of a row, each what a step reads of it: bytes are 16 words, with 4 bits of a block of 128.
inline void words_of(const Linear& w, const uint8_t* row, int64_t first, int64_t count, uint32_t* words) {
  if (w.kind != kInt4) {
    std::memcpy(words, row + first * 4, size_t(count) * 4);
    for (int i = 0; i < 16; ++i) words[i] ^= kOffsets;
    return;
  }
  uint32_t bytes[16], columns[32];
  std::memcpy(bytes, row + first * 4, sizeof bytes);
  for (int i = 0; i < 16; ++i) {
    columns[i] = bytes[i] & 0x0f0f0f0fu;
    columns[16 + i] = (bytes[i] >> 4) & 0x0f0f0f0fu;
  }
  for (int i = 0; i < 16; ++i) words[i] = columns[2 * i] | (columns[2 * i + 1] << 4);
}

// Scales of a row.
int64_t scales(const Linear& w) { return w.scale == nullptr ? 0 : w.columns / w.group; }

}  // namespace

int64_t packed_bytes(const Linear& w) { return w.kind != kInt4 ? w.columns : (w.columns + 127) / 128 * 64; }

void PanelMemory::fill(const Linear& w, int64_t n, int64_t lanes) {
  int64_t bytes = packed_bytes(w), rows = std::min(kPanel, w.rows - n), groups = scales(w);
  weight.resize(size_t(kPanel * bytes));
  scale.resize(size_t(kPanel * groups));
  const uint8_t* from = static_cast<const uint8_t*>(w.weight) + n * bytes;
  for (int64_t at = 0; at < bytes / 4; at += 16) {
    int64_t count = std::min<int64_t>(16, bytes / 4 - at);
    Floats block[16] = {};
    for (int64_t i = 0; i < rows; ++i) {
      __builtin_prefetch(from + (i + rows) * bytes + at * 4);
      uint32_t words[16] = {};
      words_of(w, from + i * bytes, at, count, words);
      std::memcpy(&block[i], words, sizeof words);
    }
    transpose(block);
    for (int64_t j = 0; j < count; ++j) std::memcpy(weight.data() + (at + j) * lanes * 4, &block[j], size_t(lanes) * 4);
  }
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < lanes; ++i)
      scale[size_t(g * lanes + i)] = i < rows ? w.scale[(n + i) * groups + g] : uint16_t(0);
}

Panel PanelMemory::find(const Linear& w, int64_t n) {
  int64_t bytes = packed_bytes(w), rows = std::min(kPanel, w.rows - n), groups = scales(w);
  const uint8_t* from = static_cast<const uint8_t*>(w.weight) + n * bytes;
  const uint16_t* factors = w.scale + n * groups;
  if (w.layout == kPanels && rows == kPanel) return {from, factors, rows};
  if (w.layout == kPanels) {
    weight.assign(size_t(kPanel * bytes), 0);
    scale.assign(size_t(kPanel * groups), 0);
    for (int64_t j = 0; j < bytes / 4; ++j)
      std::memcpy(weight.data() + j * kPanel * 4, from + j * rows * 4, size_t(rows) * 4);
    for (int64_t g = 0; g < groups; ++g) std::copy_n(factors + g * rows, rows, scale.data() + g * kPanel);
  } else {
    fill(w, n, kPanel);
  }
  return {weight.data(), scale.data(), rows};
}

}  // namespace glm

// Packs a weight in rows: `weight` and `scale` may be where they are now.
extern "C" void glm_pack(const glm::Linear* w, void* weight, uint16_t* scale) {
  using namespace glm;
  int64_t bytes = packed_bytes(*w), groups = scales(*w);
  parallel_ranges(w->rows, kPanel, [&](int64_t n, int64_t end) {
    static thread_local PanelMemory panel;
    panel.fill(*w, n, end - n);
    std::memcpy(static_cast<uint8_t*>(weight) + n * bytes, panel.weight.data(), size_t((end - n) * bytes));
    if (groups > 0) std::memcpy(scale + n * groups, panel.scale.data(), size_t((end - n) * groups) * 2);
  });
}
