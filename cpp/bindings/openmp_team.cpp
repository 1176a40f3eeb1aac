#include "openmp_team.hpp"

#include <dlfcn.h>

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace l2m::bindings {
namespace {

int (*torch_threads)();  // at::get_num_threads()

// The interface of GNU's OpenMP library, which LLVM's has as well.
void (*parallel)(void (*body)(void*), void* data, unsigned num_threads, unsigned flags);
int (*max_threads)();
int (*thread_number)();
int (*num_threads)();

struct Call {
  int count;
  Team::Task task;
  const void* context;
};

/// Run the tasks of one thread of the team. The team may have fewer threads than there are tasks.
void run_share(void* data) {
  const Call& call = *static_cast<const Call*>(data);
  for (int i = thread_number(); i < call.count; i += num_threads()) call.task(call.context, i);
}

/// Return whether `count` threads can be started: GNU's library ends the process if one of its own cannot be.
bool can_start(int count) {
  std::mutex mutex;
  std::condition_variable all_began;
  bool may_end = false;
  std::vector<std::thread> threads;
  bool started = true;
  try {
    threads.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i)
      threads.emplace_back([&] {
        std::unique_lock lock(mutex);
        all_began.wait(lock, [&] { return may_end; });
      });
  } catch (const std::exception&) {
    started = false;
  }
  {
    const std::lock_guard lock(mutex);
    may_end = true;
  }
  all_began.notify_all();
  for (std::thread& thread : threads) thread.join();
  return started;
}

void run_all(int count, Team::Task task, const void* context) {
  thread_local int known_size = 1;  // each thread that calls torch has a team
  if (count > known_size && !can_start(count - 1)) {
    for (int i = 0; i < count; ++i) task(context, i);
    return;
  }
  known_size = count;
  Call call{count, task, context};
  // Another size than that of torch's calls would end threads, and start them again at torch's next call.
  constexpr unsigned kDefault = 0;
  parallel(run_share, &call, kDefault, 0);
}

/// Return the number of torch's threads; 1 if they are those of another library.
int team_size() {
  const int size = torch_threads();  // also sets the number of OpenMP's threads, at the first call in a thread
  return size == max_threads() ? size : 1;
}

/// Find a function as the linker does for torch: in the libraries that all see, such as preloaded ones, then in its own.
template <class Function>
bool find(void* torch, const char* name, Function& function) {
  void* address = dlsym(RTLD_DEFAULT, name);
  if (address == nullptr) address = dlsym(torch, name);
  function = reinterpret_cast<Function>(address);
  return function != nullptr;
}

}  // namespace

const Team* openmp_team() {
  static constexpr Team team{team_size, run_all};
  void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return nullptr;
  static const bool found = find(torch, "_ZN2at15get_num_threadsEv", torch_threads) &&
                            find(torch, "GOMP_parallel", parallel) && find(torch, "omp_get_max_threads", max_threads) &&
                            find(torch, "omp_get_thread_num", thread_number) &&
                            find(torch, "omp_get_num_threads", num_threads);
  return found ? &team : nullptr;
}

}  // namespace l2m::bindings
