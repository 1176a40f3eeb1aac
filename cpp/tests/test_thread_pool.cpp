#include "l2m/run/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "in_child.hpp"
#include "reference.hpp"

namespace l2m::test {
namespace {

using namespace std::chrono_literals;

/// Task that keeps a thread of a queue busy until it is released.
class Blocker {
 public:
  explicit Blocker(TaskQueue& queue) {
    queue.push([state = state_] {
      state->begun.count_down();
      state->released.wait();
    });
    state_->begun.wait();
  }
  ~Blocker() { release(); }
  Blocker(const Blocker&) = delete;
  Blocker& operator=(const Blocker&) = delete;

  void release() {
    if (!state_->released.try_wait()) state_->released.count_down();
  }

 private:
  struct State {
    std::latch begun{1};
    std::latch released{1};
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

void wait_for(const std::atomic<int>& value, int wanted) {
  for (int seen = value; seen < wanted; seen = value) value.wait(seen);
}

void count_up(std::atomic<int>& value) {
  ++value;
  value.notify_all();
}

void test_every_task_runs_once() {
  for (const int threads : kThreadCounts) {
    std::atomic<int> ran = 0;
    TaskQueue queue(threads);
    CHECK(queue.max_threads() == threads);
    CHECK(pool_threads() >= threads);
    for (int i = 0; i < 500; ++i) {
      queue.push([&ran] { count_up(ran); });
    }
    wait_for(ran, 500);
    CHECK(ran == 500);
    CHECK(!queue.first_error());
  }
}

void test_without_threads_the_caller_runs_the_task() {
  TaskQueue queue(0);
  std::thread::id ran_on;
  queue.push([&] { ran_on = std::this_thread::get_id(); });
  CHECK(ran_on == std::this_thread::get_id());
}

void test_the_pool_grows_to_the_largest_number_of_threads() {
  const int before = pool_threads();
  TaskQueue same(before);
  CHECK(pool_threads() == before);
  TaskQueue more(before + 3);
  CHECK(pool_threads() == before + 3);
  TaskQueue fewer(1);
  CHECK(pool_threads() == before + 3);
}

void test_a_full_queue_makes_the_caller_run_the_task() {
  std::vector<int> order;  // written by one thread at a time: the caller, while the other waits
  TaskQueue queue(1, 2);
  Blocker blocker(queue);
  std::atomic<int> ran = 0;
  queue.push([&] { order.push_back(2); });
  queue.push([&] {
    order.push_back(3);
    count_up(ran);
  });
  queue.push([&] { order.push_back(1); });
  CHECK(order == std::vector{1});
  blocker.release();
  wait_for(ran, 1);
  CHECK((order == std::vector{1, 2, 3}));
}

void test_the_first_error_is_kept() {
  for (const int threads : {0, 1}) {
    std::atomic<int> ran = 0;
    TaskQueue queue(threads);
    for (const char* name : {"first", "second", "third"}) {
      queue.push([&ran, name] {
        count_up(ran);
        throw std::runtime_error(name);
      });
    }
    wait_for(ran, 3);
    queue.cancel();
    std::string kept;
    try {
      std::rethrow_exception(queue.first_error());
    } catch (const std::runtime_error& error) {
      kept = error.what();
    }
    CHECK(kept == "first");
  }
}

void test_cancel_drops_waiting_tasks_and_waits_for_running_ones() {
  for (const int threads : {1, 2, 3, 8}) {
    std::atomic<int> begun = 0, ended = 0, dropped_ran = 0;
    const auto held_by_tasks = std::make_shared<int>(0);
    TaskQueue queue(threads, 1'000'000);  // never full, so the caller runs no task
    for (int i = 0; i < threads; ++i) {
      queue.push([&] {
        count_up(begun);
        std::this_thread::sleep_for(5ms);
        ++ended;
      });
    }
    wait_for(begun, threads);
    std::vector<std::unique_ptr<Blocker>> blockers;
    for (int i = 0; i < threads; ++i) blockers.push_back(std::make_unique<Blocker>(queue));
    for (int i = 0; i < 20; ++i) {
      queue.push([&dropped_ran, held_by_tasks] { ++dropped_ran; });
    }
    CHECK(held_by_tasks.use_count() == 21);
    std::atomic<bool> canceled = false;
    std::thread canceller([&] {
      queue.cancel();
      canceled = true;
    });
    for (bool ignored = false; !ignored; std::this_thread::yield()) {
      const auto held_by_task = std::make_shared<int>(0);
      queue.push([held_by_task] {});
      ignored = held_by_task.use_count() == 1;
    }
    CHECK(!canceled);
    for (auto& blocker : blockers) blocker->release();
    canceller.join();
    CHECK(ended == threads);
    CHECK(held_by_tasks.use_count() == 1);
    queue.push([&] { ++dropped_ran; });
    queue.cancel();
    CHECK(dropped_ran == 0);
  }
  TaskQueue inline_queue(0);
  inline_queue.cancel();
  inline_queue.push([] { CHECK(false); });
}

void test_a_thread_freed_during_cancel_runs_no_dropped_task() {
  std::atomic<int> dropped_ran = 0;
  TaskQueue queue(1);
  Blocker blocker(queue);
  {
    // The first dropped task frees the only thread and gives it time to look for work.
    const std::shared_ptr<void> held_by_task(nullptr, [&](void*) {
      blocker.release();
      std::this_thread::sleep_for(20ms);
    });
    queue.push([held_by_task] {});
  }
  for (int i = 0; i < 20; ++i) queue.push([&] { ++dropped_ran; });
  queue.cancel();
  CHECK(dropped_ran == 0);
}

void test_destruction_waits_for_running_tasks() {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> running = 0;
    {
      TaskQueue queue(3);
      for (int i = 0; i < 6; ++i) {
        queue.push([&running] {
          ++running;
          std::this_thread::yield();
          --running;
        });
      }
    }
    CHECK(running == 0);
  }
}

void test_parallel_for_visits_every_index_once() {
  for (const int threads : kThreadCounts) {
    for (const std::int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<int> visits(static_cast<std::size_t>(count), 0);
      parallel_for(threads, count, [&](std::int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
      CHECK(std::ranges::all_of(visits, [](int n) { return n == 1; }));
    }
  }
}

void test_parallel_for_throws_the_error_of_a_body() {
  for (const int threads : kThreadCounts) {
    std::atomic<int> visited = 0;
    const auto run = [&] {
      parallel_for(threads, 1'000'000'000, [&](std::int64_t i) {
        ++visited;
        if (i == 20) throw std::out_of_range("20");
      });
    };
    CHECK_THROWS(std::out_of_range, run());
    CHECK(visited < 1'000'000'000);  // the rest was stopped
  }
}

void test_parallel_for_inside_tasks_does_not_deadlock() {
  for (const int threads : kThreadCounts) {
    std::atomic<int> sum = 0;
    parallel_for(threads, 6, [&](std::int64_t) {
      parallel_for(threads, 6, [&](std::int64_t) { parallel_for(threads, 6, [&](std::int64_t) { ++sum; }); });
    });
    CHECK(sum == 6 * 6 * 6);

    std::atomic<int> ended = 0;
    TaskQueue queue(threads);
    for (int i = 0; i < 20; ++i) {
      queue.push([&] {
        parallel_for(threads, 50, [&](std::int64_t) { ++sum; });
        count_up(ended);
      });
    }
    wait_for(ended, 20);
    CHECK(sum == 6 * 6 * 6 + 1000);
  }
}

void test_parallel_for_needs_no_free_thread() {
  TaskQueue queue(pool_threads());
  std::vector<std::unique_ptr<Blocker>> blockers;
  for (int i = 0; i < queue.max_threads(); ++i) blockers.push_back(std::make_unique<Blocker>(queue));
  int sum = 0;
  parallel_for(queue.max_threads() + 1, 100,
               [&](std::int64_t) { ++sum; });  // does not grow the pool: one thread is the caller
  CHECK(sum == 100);
}

void test_owners_share_the_pool() {
  constexpr int kTasks = 400;
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 4; ++owner) {
    owners.emplace_back([owner] {
      const int threads = 1 + owner % 3;
      std::atomic<int> running = 0, max_running = 0, ran = 0;
      TaskQueue queue(threads, 1'000'000);  // never full, so the caller runs no task
      for (int i = 0; i < kTasks; ++i) {
        const auto task = [&] {
          const int now = ++running;
          for (int seen = max_running; seen < now && !max_running.compare_exchange_weak(seen, now);) continue;
          std::this_thread::yield();
          --running;
          count_up(ran);
        };
        queue.push(task);
      }
      wait_for(ran, kTasks);
      CHECK(max_running <= threads);
    });
  }
  for (std::thread& owner : owners) owner.join();
}

void test_a_forked_child_has_its_own_threads() {
  TaskQueue queue(2);
  Blocker busy(queue);
  queue.push([] {});
  const int forks_before = forks();
  for (int round = 0; round < 5; ++round) {
    in_child([&] {
      CHECK(forks() == forks_before + 1);
      CHECK(pool_threads() == 0);
      std::atomic<int> ran = 0;
      TaskQueue fresh(3);
      for (int i = 0; i < 100; ++i) fresh.push([&ran] { count_up(ran); });
      wait_for(ran, 100);
      parallel_for(3, 100, [&](std::int64_t) { ++ran; });
      CHECK(ran == 200);
    });
  }
  CHECK(forks() == forks_before);
}

void test_an_error_is_raised_if_no_thread_can_be_started() {
#if defined(__GLIBC__)
  in_child([] {
    pthread_attr_t huge;
    CHECK(pthread_attr_init(&huge) == 0);
    CHECK(pthread_attr_setstacksize(&huge, ~std::size_t{0} << 20) == 0);  // no space for it
    CHECK(pthread_setattr_default_np(&huge) == 0);
    CHECK_THROWS(NoThread, TaskQueue(2));
    std::vector<int> visits(100, 0);
    parallel_for(4, 100, [&](std::int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
    CHECK(std::ranges::count(visits, 1) == 100);
    TaskQueue inline_queue(0);
    int ran = 0;
    inline_queue.push([&] { ++ran; });
    CHECK(ran == 1);
  });
#endif
}

}  // namespace
}  // namespace l2m::test

int main() {
  using namespace l2m::test;
  test_every_task_runs_once();
  test_without_threads_the_caller_runs_the_task();
  test_the_pool_grows_to_the_largest_number_of_threads();
  test_a_full_queue_makes_the_caller_run_the_task();
  test_the_first_error_is_kept();
  test_cancel_drops_waiting_tasks_and_waits_for_running_ones();
  test_a_thread_freed_during_cancel_runs_no_dropped_task();
  test_destruction_waits_for_running_tasks();
  test_parallel_for_visits_every_index_once();
  test_parallel_for_throws_the_error_of_a_body();
  test_parallel_for_inside_tasks_does_not_deadlock();
  test_parallel_for_needs_no_free_thread();
  test_owners_share_the_pool();
  test_a_forked_child_has_its_own_threads();
  test_an_error_is_raised_if_no_thread_can_be_started();
}
