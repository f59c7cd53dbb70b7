// Memory that a thread keeps from call to call, on a boundary of 64 bytes.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace glm {

struct Kept {
  void* memory = nullptr;
  int64_t size = 0;

  ~Kept() { std::free(memory); }

  char* take(int64_t bytes) {
    if (bytes > size) {
      std::free(memory);
      size = 0;
      memory = std::aligned_alloc(4096, size_t((bytes + 4095) / 4096 * 4096));
      if (memory == nullptr) throw std::bad_alloc();
      size = bytes;
    }
    return (char*)memory;
  }

  float* floats(int64_t count) { return (float*)take(count * int64_t(sizeof(float))); }
};

}  // namespace glm
