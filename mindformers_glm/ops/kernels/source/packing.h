// Integer weights in the order in which matmuls read them. A panel holds 16 rows (the last one of a weight what is
// left), each of its steps four bytes of every row: with 8 bits four columns, 128 added to each; with 4 bits eight, the
// first four in the low halves and the others in the high ones, 8 meaning 0. Scales: of a group, those of every row.
// Panels take the bytes that their rows took, at the same place, so that a weight may be packed where it is.
#pragma once
#include <cstdint>
#include <vector>

#include "linear.h"

namespace glm {

constexpr int64_t kPanel = 16;

// Bytes of a row in either layout.
int64_t packed_bytes(const Linear& w);

// Where a whole panel is, and how many of its rows there are; what is missing of 16 does not matter.
struct Panel {
  const uint8_t* weight;
  const uint16_t* scale;
  int64_t rows;
};

// Memory for a panel that does not lie anywhere as it is read.
struct PanelMemory {
  std::vector<uint8_t> weight;
  std::vector<uint16_t> scale;

  // The panel of a weight that begins at row n: where it lies, or in this memory, where it stays until the next call.
  Panel find(const Linear& w, int64_t n);
  // Packs it from rows, for `lanes` rows.
  void fill(const Linear& w, int64_t n, int64_t lanes);
};

}  // namespace glm
