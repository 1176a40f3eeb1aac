// Start of a program on a Cortex-M without an operating system, for tests in QEMU: the first words of the memory, and
// what has to be done before the start of the C library. Output goes to the debugger (semihosting).

#include <cstdint>
#include <cstdlib>

extern "C" {

extern char stack_top;  // of the linker script
void _start();          // of the C library

void reset() {
  *reinterpret_cast<volatile std::uint32_t*>(0xE000ED88) |= 0xFU << 20;  // switch on the floating-point unit
  __asm__ volatile("dsb\n isb");
  _start();
}
}

namespace {

void fault() { std::_Exit(EXIT_FAILURE); }

struct Vectors {
  const char* stack_top;
  void (*handlers[6])();  // of a reset, and of faults
};

[[gnu::section(".vectors"), gnu::used]] const Vectors vectors{&stack_top, {reset, fault, fault, fault, fault, fault}};

}  // namespace
