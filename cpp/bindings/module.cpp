#include <pybind11/pybind11.h>

#include <string>

#include "interrupt.hpp"
#include "l2m/base/platform.hpp"
#include "l2m/run/thread_pool.hpp"
#include "openmp_team.hpp"
#include "register.hpp"
#include "released_gil.hpp"

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

}  // namespace

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace l2m::bindings;
  m.doc() = "C++ core of l2m_fast.";
  m.attr("__version__") = L2M_VERSION;
  m.attr("compiler") = kCompiler;
  m.attr("without_cuda") = L2M_WITHOUT_CUDA;
  m.def("usable_cpus", &l2m::usable_cpus, "Return the number of CPUs this process may use.");
  m.def("pool_threads", &l2m::pool_threads, "Return the number of threads of the process-wide pool.");
  m.def(
      "openmp_threads", [] { return openmp_team() == nullptr ? 0 : openmp_team()->size(); },
      "Return the number of threads of torch's OpenMP team in this thread; 0 if torch is not loaded or has none.");
  wait_for_threads_at_exit();
  register_class_index(m);
  register_class_loss(m);
  register_cross_entropy(m);
  register_fields(m);
  register_interrupt();
  register_policies(m);
  register_loader(m);
}
