// How MindSpore calls an operator of its own (ops.Custom, "aot"): inputs and then outputs, each with its shape.
#pragma once
#include <cstdint>
#include <exception>

namespace glm {

struct Arguments {
  void** data;
  int* ranks;
  int64_t** shapes;

  float* floats(int i) const { return (float*)data[i]; }
  const int32_t* ints(int i) const { return (const int32_t*)data[i]; }
  int64_t size(int i, int axis) const { return shapes[i][axis]; }
  int64_t total(int i) const {
    int64_t count = 1;
    for (int axis = 0; axis < ranks[i]; ++axis) count *= shapes[i][axis];
    return count;
  }
};

}  // namespace glm

// Defines the operator `name` over `Arguments given`; another result than 0 makes MindSpore raise an error.
#define GLM_OPERATOR(name)                                                                          \
  static void name##_work(const glm::Arguments& given);                                             \
  extern "C" int name(int, void** data, int* ranks, int64_t** shapes, const char**, void*, void*) { \
    try {                                                                                           \
      name##_work({data, ranks, shapes});                                                           \
    } catch (const std::exception&) {                                                               \
      return 1;                                                                                     \
    }                                                                                               \
    return 0;                                                                                       \
  }                                                                                                 \
  static void name##_work(const glm::Arguments& given)
