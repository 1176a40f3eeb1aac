#pragma once

/// The few things the core needs that the standard library lacks; the only file that knows an operating system.
namespace l2m {

/// CPUs this process may run on, at least 1.
int usable_cpus();

/// Calls `handler` in every child of fork(), before fork() returns there. Handlers live as long as the process.
void at_fork_in_child(void (*handler)());

}  // namespace l2m
