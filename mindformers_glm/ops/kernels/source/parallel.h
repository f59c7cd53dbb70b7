// Threads that share the work of one loop.
#pragma once
#include <cstdint>
#include <functional>

namespace glm {

// How many threads a loop may use, the caller among them.
void set_threads(int count);
int threads();

// Calls work(i) once for every i in [0, count), on all threads, in any order; returns when all are done.
// A loop inside a loop, or beside another one that is running, is done by its caller alone.
void parallel_for(int64_t count, const std::function<void(int64_t)>& work);

// The same for pieces [begin, end) of about `grain` numbers.
void parallel_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& work);

}  // namespace glm
