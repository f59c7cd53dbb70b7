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

// The panel of a weight in rows that begins at row n.
struct PackedPanel {
  std::vector<uint8_t> weight;
  std::vector<uint16_t> scale;
  void fill(const Linear& w, int64_t n);
};

}  // namespace glm
