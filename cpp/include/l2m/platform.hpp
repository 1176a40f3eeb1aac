#pragma once

#include <cstddef>

/// The few things the core needs that the standard library lacks; the only file that knows an operating system.
namespace l2m {

/// CPUs this process may run on, at least 1.
int usable_cpus();

/// Calls `handler` in every child of fork(), before fork() returns there. Handlers live as long as the process.
void at_fork_in_child(void (*handler)());

/// Asks for large pages behind `size` bytes at `data`: fewer page faults and address look-ups for large arrays.
void prefer_large_pages(void* data, std::size_t size);

}  // namespace l2m
