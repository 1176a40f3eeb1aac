#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "l2m/base/threads.hpp"
#include "l2m/plan/passes.hpp"

namespace l2m::test {

/// Threads that work on passes, as those of a pipeline do.
class PassThreads {
 public:
  PassThreads(Passes& passes, int threads) {
    for (int i = 0; i < usable_threads(threads); ++i)
      threads_.emplace_back([&] {
        while (!done_)
          if (!passes.has_work() || !passes.work()) std::this_thread::yield();
      });
  }
  ~PassThreads() {
    done_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  PassThreads(const PassThreads&) = delete;
  PassThreads& operator=(const PassThreads&) = delete;

 private:
  std::atomic<bool> done_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace l2m::test
