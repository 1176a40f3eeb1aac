#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "class_loss.hpp"

namespace {

namespace py = pybind11;

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

l2m::cuda::LossType loss_type(const std::string& name) {
  using enum l2m::cuda::LossType;
  if (name == "float16") return kFloat16;
  if (name == "bfloat16") return kBFloat16;
  if (name == "float32") return kFloat32;
  if (name == "float64") return kFloat64;
  throw py::type_error("losses must be float16, bfloat16, float32 or float64 (got " + name + ")");
}

void add_class_loss(std::uintptr_t losses, const std::string& type, std::uintptr_t classes, int class_bytes,
                    bool classes_signed, std::int64_t n, std::int64_t num_classes, std::uintptr_t sum,
                    std::uintptr_t count, std::uintptr_t unusual, std::uintptr_t digits, std::uintptr_t stream) {
  l2m::cuda::add_class_loss(loss_type(type), pointer<const void>(losses),
                            {pointer<const void>(classes), class_bytes, classes_signed}, n,
                            {num_classes, pointer<double>(sum), pointer<std::int64_t>(count),
                             pointer<std::int64_t>(unusual), pointer<std::int64_t>(digits)},
                            pointer<void>(stream));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The CUDA kernels of l2m_fast. Addresses are of memory on the current device; nothing waits for it.";
  m.def("device_count", &l2m::cuda::device_count, "Devices there are; 0 also without a driver.");
  m.def("add_class_loss", &add_class_loss, py::arg("losses"), py::arg("loss_type"), py::arg("classes"),
        py::arg("class_bytes"), py::arg("classes_signed"), py::arg("n"), py::arg("num_classes"), py::arg("sum"),
        py::arg("count"), py::arg("unusual"), py::arg("digits"), py::arg("stream"),
        "Adds losses per class, see cpp/cuda/class_loss.hpp. A failed launch is a RuntimeError.");
}
