// How fast this machine's memory can be read: the limit of decoding, which reads every weight for every token.
#include <algorithm>
#include <atomic>

#include "parallel.h"
#include "vectors.h"

extern "C" {

// Reads `count` numbers with every thread and returns all of them xored, which keeps the compiler from leaving the
// reads out.
int32_t glm_read_memory(const int32_t* numbers, int64_t count) {
  constexpr int64_t kPiece = int64_t(1) << 18, kStreams = 8;
  int64_t pieces = (count + kPiece - 1) / kPiece;
  std::atomic<int32_t> total{0};
  glm::parallel_for(pieces, [&](int64_t piece) {
    const int32_t* at = numbers + piece * kPiece;
    const int32_t* end = numbers + std::min(count, (piece + 1) * kPiece);
    glm::Ints mixed[kStreams] = {};
    for (; at + kStreams * glm::kLanes <= end; at += kStreams * glm::kLanes)
      for (int64_t i = 0; i < kStreams; ++i) mixed[i] ^= glm::read<glm::Ints>(at + i * glm::kLanes);
    int32_t one = 0;
    for (const glm::Ints& some : mixed)
      for (int i = 0; i < glm::kLanes; ++i) one ^= some[i];
    for (; at < end; ++at) one ^= *at;
    total.fetch_xor(one, std::memory_order_relaxed);
  });
  return total.load();
}

}  // extern "C"
