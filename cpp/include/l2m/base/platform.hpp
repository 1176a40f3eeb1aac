#pragma once

#include <cstddef>
#include <string>

/// Operating-system functions that the standard library lacks. No other file of the core depends on the operating system.
namespace l2m {

/// Return the number of CPUs this process may use, at least 1: its affinity, limited by the quota of its cgroups.
int usable_cpus();

/// Return the CPU quota of the cgroups of a process (version 1 or 2), rounded up; 0 if unlimited.
///
/// @param root        mount point of the cgroup hierarchies: /sys/fs/cgroup.
/// @param membership  file in the format of /proc/self/cgroup.
int cgroup_cpus(const std::string& root, const std::string& membership);

/// Call `handler` in every forked child, before fork() returns there. Handlers cannot be removed.
void at_fork_in_child(void (*handler)());

/// Request huge pages for `size` bytes at `data`, which reduces page faults and TLB misses for large arrays.
void prefer_large_pages(void* data, std::size_t size) noexcept;

}  // namespace l2m
