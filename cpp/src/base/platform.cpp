#include "l2m/base/platform.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "l2m/base/threads.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif

namespace l2m {

namespace {

/// Return the content of a small file, or an empty string if it cannot be read.
std::string content_of(const std::string& path) {
  std::string content;
  if (std::FILE* const file = std::fopen(path.c_str(), "re"); file != nullptr) {
    char part[4096];
    for (std::size_t size; (size = std::fread(part, 1, sizeof(part), file)) > 0;) content.append(part, size);
    std::fclose(file);
  }
  return content;
}

/// Return the CPU quota of one cgroup; infinity if unlimited.
double cgroup_quota(const std::string& folder, bool second_version) {
  double quota = -1, period = 0;
  if (second_version) {
    if (std::sscanf(content_of(folder + "/cpu.max").c_str(), "%lf %lf", &quota, &period) != 2) quota = -1;  // "max ..."
  } else {
    (void)std::sscanf(content_of(folder + "/cpu.cfs_quota_us").c_str(), "%lf", &quota);
    (void)std::sscanf(content_of(folder + "/cpu.cfs_period_us").c_str(), "%lf", &period);
  }
  return quota > 0 && period > 0 ? quota / period : HUGE_VAL;
}

}  // namespace

int cgroup_cpus(const std::string& root, const std::string& membership) {
  double granted = HUGE_VAL;
  const std::string groups = content_of(membership);
  for (std::size_t begin = 0; begin < groups.size();) {
    const std::size_t end = std::min(groups.find('\n', begin), groups.size());
    const std::string line = groups.substr(begin, end - begin);  // number:controllers:path
    begin = end + 1;
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers{','};
    controllers.append(line, first + 1, second - first - 1).push_back(',');
    const bool second_version = controllers == ",,";
    if (!second_version && controllers.find(",cpu,") == std::string::npos) continue;
    // The limits of all parent groups apply. Inside a container, the path may be that of the host and not exist.
    std::string path = line.substr(second + 1);
    for (bool more = true; more;) {
      more = !path.empty();
      for (const std::string& mount : {root, root + "/cpu", root + "/cpu,cpuacct", root + "/unified"})
        granted = std::min(granted, cgroup_quota(mount + path, second_version));
      path.erase(more ? path.rfind('/') : 0);
    }
  }
  return std::isfinite(granted) ? static_cast<int>(std::ceil(std::min(granted, 1e6))) : 0;
}

int usable_cpus() {
  int count = hardware_threads();
#if defined(__linux__)
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) count = CPU_COUNT(&cpus);
  if (const int granted = cgroup_cpus("/sys/fs/cgroup", "/proc/self/cgroup"); granted > 0)
    count = std::min(count, granted);
#endif
  return std::max(count, 1);
}

void at_fork_in_child(void (*handler)()) {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, handler);
#else
  (void)handler;  // no fork on this system
#endif
}

void prefer_large_pages(void* data, std::size_t size) noexcept {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + size) / kPage * kPage;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // failure is harmless
#else
  (void)data;
  (void)size;
#endif
}

}  // namespace l2m
