#pragma once

#include <cstddef>
#include <string>

/// The few things the core needs that the standard library lacks; the only file that knows an operating system.
namespace l2m {

/// CPUs this process may use, at least 1: those it may run on, and no more than its control groups grant it time for.
int usable_cpus();

/// CPUs that the control groups of a process (cgroups of either version) grant it time for, rounded up; 0: no limit.
///
/// @param root        where the hierarchies of control groups are mounted: /sys/fs/cgroup.
/// @param membership  a file like /proc/self/cgroup.
int granted_cpus(const std::string& root, const std::string& membership);

/// Calls `handler` in every child of fork(), before fork() returns there. Handlers live as long as the process.
void at_fork_in_child(void (*handler)());

/// Asks for large pages behind `size` bytes at `data`: fewer page faults and address look-ups for large arrays.
void prefer_large_pages(void* data, std::size_t size);

}  // namespace l2m
