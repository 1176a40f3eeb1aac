/* Times of the loader's locks: a library to preload, which measures the mutexes that the library named by L2M_LIBRARY locks.
 *
 * It counts acquisitions and attempts that find a mutex held, and adds up the times between acquisition and release. A condition
 * variable releases its mutex while a thread waits. Reading the clock twice adds about 50 ns to each time, so that the sum is an
 * upper bound.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_MUTEXES = 1024, MAX_CALLERS = 1024 };

typedef struct {
  _Atomic(pthread_mutex_t*) mutex;
  _Atomic uint64_t acquired, failed, nanoseconds;
} Times;

static Times all[MAX_MUTEXES];
static _Thread_local uint64_t acquired_at; /* 0: none is held. Of two at a time, only the time of the second counts. */

static int (*real_lock)(pthread_mutex_t*);
static int (*real_trylock)(pthread_mutex_t*);
static int (*real_unlock)(pthread_mutex_t*);
static int (*real_wait)(pthread_cond_t*, pthread_mutex_t*);
static int (*real_clockwait)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const struct timespec*);

__attribute__((constructor)) static void find_functions(void) {
  *(void**)&real_lock = dlsym(RTLD_NEXT, "pthread_mutex_lock");
  *(void**)&real_trylock = dlsym(RTLD_NEXT, "pthread_mutex_trylock");
  *(void**)&real_unlock = dlsym(RTLD_NEXT, "pthread_mutex_unlock");
  *(void**)&real_wait = dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
  *(void**)&real_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Return whether the caller is in the measured library. Answers are kept by address, with the answer in the highest bit. */
static int is_measured(void* caller) {
  static _Atomic uintptr_t known[MAX_CALLERS];
  const uintptr_t yes = UINTPTR_MAX / 2 + 1, address = (uintptr_t)caller;
  _Atomic uintptr_t* slot = &known[address / 4 % MAX_CALLERS];
  const uintptr_t found = atomic_load_explicit(slot, memory_order_relaxed);
  if ((found | yes) == (address | yes)) return (found & yes) != 0;
  Dl_info info;
  const char* library = getenv("L2M_LIBRARY");
  const int measured = library && dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, library) != NULL;
  atomic_store_explicit(slot, address | (measured ? yes : 0), memory_order_relaxed);
  return measured;
}

static Times* find(pthread_mutex_t* mutex, int add) {
  const uintptr_t first = (uintptr_t)mutex / 8 % MAX_MUTEXES;
  for (uintptr_t i = 0; i < MAX_MUTEXES; ++i) {
    Times* times = &all[(first + i) % MAX_MUTEXES];
    pthread_mutex_t* other = atomic_load_explicit(&times->mutex, memory_order_relaxed);
    if (other == mutex) return times;
    if (other == NULL && !add) return NULL;
    if (other == NULL && (atomic_compare_exchange_strong(&times->mutex, &other, mutex) || other == mutex)) return times;
  }
  return NULL;
}

static void begin(Times* times, uint64_t failed) {
  atomic_fetch_add_explicit(&times->acquired, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&times->failed, failed, memory_order_relaxed);
  acquired_at = now();
}

static void end(pthread_mutex_t* mutex) {
  if (acquired_at == 0) return; /* no mutex of the library is held */
  Times* times = find(mutex, 0);
  if (times == NULL) return;
  atomic_fetch_add_explicit(&times->nanoseconds, now() - acquired_at, memory_order_relaxed);
  acquired_at = 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  if (!is_measured(__builtin_return_address(0))) return real_lock(mutex);
  const int failed = real_trylock(mutex) != 0;
  const int result = failed ? real_lock(mutex) : 0;
  Times* times = find(mutex, 1);
  if (times) begin(times, (uint64_t)failed);
  return result;
}

int pthread_mutex_trylock(pthread_mutex_t* mutex) {
  const int result = real_trylock(mutex);
  if (!is_measured(__builtin_return_address(0))) return result;
  Times* times = find(mutex, 1);
  if (times && result == 0) begin(times, 0);
  if (times && result != 0) atomic_fetch_add_explicit(&times->failed, 1, memory_order_relaxed);
  return result;
}

int pthread_mutex_unlock(pthread_mutex_t* mutex) {
  end(mutex);
  return real_unlock(mutex);
}

int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  const int held = acquired_at != 0;
  end(mutex);
  const int result = real_wait(condition, mutex);
  if (held) acquired_at = now();
  return result;
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const struct timespec* until) {
  const int held = acquired_at != 0;
  end(mutex);
  const int result = real_clockwait(condition, mutex, clock, until);
  if (held) acquired_at = now();
  return result;
}

/* Start again at zero. */
void lock_times_reset(void) {
  for (int i = 0; i < MAX_MUTEXES; ++i) {
    all[i].acquired = all[i].failed = all[i].nanoseconds = 0;
  }
}

/* Return acquisitions, attempts in vain and nanoseconds of the mutex that was held for the longest time in all. */
void lock_times_read(uint64_t out[3]) {
  out[0] = out[1] = out[2] = 0;
  for (int i = 0; i < MAX_MUTEXES; ++i) {
    if (all[i].nanoseconds <= out[2]) continue;
    out[0] = all[i].acquired;
    out[1] = all[i].failed;
    out[2] = all[i].nanoseconds;
  }
}
