// The rows of a weight in ranges that fit a CPU's cache, and what is done to the sums of a range while they are warm.
#pragma once
#include <cstdint>
#include <functional>

#include "linear.h"

namespace glm {

// found (m, end - begin), rows `width` apart, = x W^T for rows [begin, end) of W; begin is where a panel begins.
typedef std::function<void(int64_t begin, int64_t end, float* found, int64_t width)> SomeRows;

// y (M, N) of packed integers: the sums of `some` with bias, activation and addition. With kSwiglu N / 2 is a multiple
// of 16.
void by_ranges(int64_t m, const Linear& w, float* y, Finish how, const SomeRows& some);

}  // namespace glm
