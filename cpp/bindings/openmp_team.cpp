#include "openmp_team.hpp"

#include <dlfcn.h>

namespace l2m::bindings {
namespace {

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

void run_all(int count, Team::Task task, const void* context) {
  Call call{count, task, context};
  // Another size than that of torch's calls would end threads, and start them again at torch's next call.
  constexpr unsigned kDefault = 0;
  parallel(run_share, &call, kDefault, 0);
}

int team_size() { return max_threads(); }

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

const Team* openmp_team() {
  static constexpr Team team{team_size, run_all};
  // Other packages bring OpenMP libraries of their own: the symbols of this one are those that torch refers to.
  void* const torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch == nullptr) return nullptr;
  static const bool found = find(torch, "GOMP_parallel", parallel) && find(torch, "omp_get_max_threads", max_threads) &&
                            find(torch, "omp_get_thread_num", thread_number) &&
                            find(torch, "omp_get_num_threads", num_threads);
  return found ? &team : nullptr;
}

}  // namespace l2m::bindings
