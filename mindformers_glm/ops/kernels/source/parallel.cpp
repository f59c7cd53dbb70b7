#include "parallel.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace glm {
namespace {

constexpr int kSpins = 4000;  // some 100 microseconds: longer than the gaps inside a network's step

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// A loop is a number of pieces, divided among the threads: each takes its own one after the other, so that it reads
// memory in order, and then those that others have not begun. The caller is the first thread; it waits for pieces that
// have begun, never for a thread that has not come: on a busy machine that may take milliseconds.
class Pool {
 public:
  explicit Pool(int count) : count_(count), shares_(size_t(count)) {
    for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    ending_ = true;
    wake();
    for (auto& worker : workers_) worker.join();
  }

  int count() const { return count_; }

  void run(int64_t count, const std::function<void(int64_t)>& work) {
    work_ = &work;
    done_.store(0, std::memory_order_relaxed);
    ++number_;
    for (int i = 0; i < count_; ++i) {
      int64_t begin = count * i / count_;
      shares_[size_t(i)].end = count * (i + 1) / count_;
      uint64_t left = uint64_t(shares_[size_t(i)].end - begin);
      shares_[size_t(i)].left.store((uint64_t(number_) << 32) | left, std::memory_order_release);
    }
    wake();
    take(0);
    for (int spins = 0; done_.load(std::memory_order_acquire) != count;) {
      if (++spins < kSpins) {
        pause();
      } else {
        std::this_thread::yield();
      }
    }
    if (failing_.test()) {
      failing_.clear();
      std::rethrow_exception(std::exchange(failure_, nullptr));
    }
  }

 private:
  void wake() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  // Pieces are counted down in the lower half; the upper half tells one loop's count from the next one's.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
    int64_t end = 0;
  };

  void take(int own) {
    for (int i = 0; i < count_; ++i) {
      Share& share = shares_[size_t((own + i) % count_)];
      uint64_t left = share.left.load(std::memory_order_acquire);
      while ((left & 0xffffffffu) != 0) {
        if (!share.left.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel)) continue;
        try {
          (*work_)(share.end - int64_t(left & 0xffffffffu));  // the loop cannot end before this piece is done
        } catch (...) {
          if (!failing_.test_and_set()) failure_ = std::current_exception();
        }
        done_.fetch_add(1, std::memory_order_release);
        left = share.left.load(std::memory_order_acquire);
      }
    }
  }

  void serve(int own) {
    uint32_t seen = 0;
    for (;;) {
      for (int spins = 0; round_.load(std::memory_order_acquire) == seen;) {
        if (++spins < kSpins) {
          pause();
        } else {
          round_.wait(seen, std::memory_order_acquire);
        }
      }
      seen = round_.load(std::memory_order_acquire);
      if (ending_) return;
      take(own);
    }
  }

  const int count_;
  std::vector<std::thread> workers_;
  const std::function<void(int64_t)>* work_ = nullptr;
  uint32_t number_ = 0;
  std::vector<Share> shares_;
  std::atomic<int64_t> done_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> ending_{false};
  std::atomic_flag failing_ = ATOMIC_FLAG_INIT;  // some piece threw, the first of them `failure_`
  std::exception_ptr failure_;
};

std::mutex loop_mutex;  // held by the loop that has the threads
int wanted_threads = 1;
Pool* pool = nullptr;  // never destroyed at exit: its threads may outlive static objects
pid_t pool_owner = 0;

Pool& ready_pool() {
  if (pool != nullptr && pool_owner != getpid()) pool = nullptr;  // a forked child has no threads of its parent
  if (pool != nullptr && pool->count() != wanted_threads) {
    delete pool;
    pool = nullptr;
  }
  if (pool == nullptr) {
    pool = new Pool(wanted_threads);
    pool_owner = getpid();
  }
  return *pool;
}

}  // namespace

void set_threads(int count) {
  std::lock_guard<std::mutex> lock(loop_mutex);
  wanted_threads = std::max(1, count);
}

int threads() { return wanted_threads; }

void parallel_for(int64_t count, const std::function<void(int64_t)>& work) {
  if (count > 1 && count < (int64_t(1) << 32) && wanted_threads > 1 && loop_mutex.try_lock()) {
    std::lock_guard<std::mutex> lock(loop_mutex, std::adopt_lock);
    ready_pool().run(count, work);
    return;
  }
  for (int64_t i = 0; i < count; ++i) work(i);
}

void parallel_ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& work) {
  if (count <= grain) {
    if (count > 0) work(0, count);
    return;
  }
  parallel_for((count + grain - 1) / grain, [&](int64_t i) { work(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace glm
