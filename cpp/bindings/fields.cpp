#include <memory>
#include <string>

#include "convert.hpp"
#include "l2m/data/dense.hpp"
#include "l2m/data/normalize.hpp"
#include "l2m/data/row_ids.hpp"
#include "register.hpp"

namespace l2m::bindings {
namespace {

Dense dense(std::uintptr_t address, std::int64_t stride, std::int64_t row_bytes) {
  return {reinterpret_cast<const std::byte*>(address), stride, row_bytes};
}

std::shared_ptr<Field> normalize(std::uintptr_t address, std::int64_t stride, std::int64_t row_bytes,
                                 const Array<float>& mean, const Array<float>& std, std::int64_t channel_size,
                                 const std::string& dtype) {
  const auto make = [&]<class Float>(Float) -> std::shared_ptr<Field> {
    return std::make_shared<Normalize<Float>>(dense(address, stride, row_bytes), view<float>(mean), view<float>(std),
                                              channel_size);
  };
  if (dtype == "float16") return make(Float16{});
  return dtype == "bfloat16" ? make(BFloat16{}) : make(float{});
}

}  // namespace

void register_fields(py::module_& m) {
  py::classh<Field>(m, "Field", "Array of the data that contributes one item per row to a batch.");
  m.def(
      "dense",
      [](std::uintptr_t address, std::int64_t stride, std::int64_t row_bytes) -> std::shared_ptr<Field> {
        return std::make_shared<Dense>(dense(address, stride, row_bytes));
      },
      py::arg("address"), py::arg("stride"), py::arg("row_bytes"),
      "Return a field of rows in memory, which must outlive the field.");
  m.def(
      "row_ids", []() -> std::shared_ptr<Field> { return std::make_shared<RowIdField>(); },
      "Return a field of the row ids, int64.");
  m.def("normalize", &normalize, py::arg("address"), py::arg("stride"), py::arg("row_bytes"), py::arg("mean"),
        py::arg("std"), py::arg("channel_size"), py::arg("dtype"),
        "Return a field of bytes converted to (x - mean) / std of their channel, in float32, float16 or bfloat16.");
}

}  // namespace l2m::bindings
