#include "interrupt.hpp"

namespace l2m::bindings {

void register_interrupt() {
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (Interrupt& interrupt) {
      interrupt.raised.restore();
    }
  });
}

}  // namespace l2m::bindings
