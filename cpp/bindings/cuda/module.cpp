#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "class_loss.hpp"
#include "cross_entropy.hpp"
#include "devices.hpp"
#include "gather.hpp"

namespace {

namespace py = pybind11;

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

l2m::cuda::FloatType float_type(const std::string& name) {
  using enum l2m::cuda::FloatType;
  if (name == "float16") return kFloat16;
  if (name == "bfloat16") return kBFloat16;
  if (name == "float32") return kFloat32;
  if (name == "float64") return kFloat64;
  throw py::type_error("floats must be float16, bfloat16, float32 or float64 (got " + name + ")");
}

/// (num_classes, digits, count, skipped); all but the first are addresses.
using Totals = std::tuple<std::int64_t, std::uintptr_t, std::uintptr_t, std::uintptr_t>;

l2m::cuda::ClassTotals class_totals(const Totals& totals) {
  const auto& [num_classes, digits, count, skipped] = totals;
  return {num_classes, pointer<std::int64_t>(digits), pointer<std::int64_t>(count), pointer<std::int64_t>(skipped)};
}

void add_class_loss(std::uintptr_t losses, const std::string& type, std::uintptr_t classes, int class_bytes,
                    bool classes_signed, std::int64_t n, const Totals& totals, std::uintptr_t stream) {
  l2m::cuda::add_class_loss(float_type(type), pointer<const void>(losses),
                            {pointer<const void>(classes), class_bytes, classes_signed}, n, class_totals(totals),
                            pointer<void>(stream));
}

/// (targets, n, num_columns, weight, ignore_index, label_smoothing, offsets); targets, weight and offsets are addresses,
/// of which the last two may be 0.
using Targets =
    std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::uintptr_t, std::int64_t, double, std::uintptr_t>;

l2m::cuda::Targets targets_of(const Targets& targets) {
  const auto& [address, n, num_columns, weight, ignore_index, label_smoothing, offsets] = targets;
  return {pointer<const std::int64_t>(address),
          n,
          num_columns,
          pointer<const double>(weight),
          ignore_index,
          label_smoothing,
          pointer<const double>(offsets)};
}

/// (log_sum_exp, losses, mean, type of the mean, total_weight, invalid_targets, partials); all but the type are
/// addresses.
using Losses = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::string, std::uintptr_t, std::uintptr_t,
                          std::uintptr_t>;

void cross_entropy(std::uintptr_t logits, const std::string& type, const Targets& targets, const Losses& losses,
                   std::uintptr_t classes, int class_bytes, bool classes_signed, const Totals& totals,
                   std::uintptr_t stream) {
  const auto& [log_sum_exp, of_rows, mean, mean_type, total_weight, invalid_targets, partials] = losses;
  l2m::cuda::cross_entropy(
      float_type(type), pointer<const void>(logits), targets_of(targets),
      {pointer<double>(log_sum_exp), pointer<double>(of_rows), pointer<void>(mean), float_type(mean_type),
       pointer<double>(total_weight), pointer<std::int64_t>(invalid_targets), pointer<double>(partials)},
      {pointer<const void>(classes), class_bytes, classes_signed}, class_totals(totals), pointer<void>(stream));
}

void cross_entropy_gradient(std::uintptr_t logits, const std::string& type, const Targets& targets,
                            std::uintptr_t log_sum_exp, std::uintptr_t total_weight, std::uintptr_t of_loss,
                            const std::string& of_loss_type, std::uintptr_t gradient, std::uintptr_t stream) {
  l2m::cuda::cross_entropy_gradient(float_type(type), pointer<const void>(logits), targets_of(targets),
                                    pointer<const double>(log_sum_exp), pointer<const double>(total_weight),
                                    pointer<const void>(of_loss), float_type(of_loss_type), pointer<void>(gradient),
                                    pointer<void>(stream));
}

/// Fields whose rows are gathered on a device.
class Gather {
 public:
  using Normalization = std::tuple<std::string, std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t>;
  using Field = std::tuple<std::uintptr_t, std::int64_t, std::int64_t, std::optional<Normalization>>;

  explicit Gather(const std::vector<Field>& fields) {
    for (const auto& [address, stride, row_size, normalization] : fields) {
      fields_.push_back({pointer<const void>(address), stride, row_size});
      if (!normalization) continue;
      const auto& [type, mean, std, channels, channel_size] = *normalization;
      fields_.back().normalization = {float_type(type), pointer<const float>(mean), pointer<const float>(std), channels,
                                      channel_size};
    }
    for (l2m::cuda::Field& field : fields_) l2m::cuda::locate(field);
  }

  void operator()(std::uintptr_t rows, const std::vector<std::int64_t>& sizes, const std::vector<std::uintptr_t>& outs,
                  std::uintptr_t stream) const {
    if (outs.size() != fields_.size() * sizes.size())
      throw py::value_error("outs must have one address for each batch and field");
    std::vector<void*> addresses;
    for (const std::uintptr_t out : outs) addresses.push_back(pointer<void>(out));
    l2m::cuda::gather(fields_, pointer<const std::int64_t>(rows), sizes, addresses, pointer<void>(stream));
  }

 private:
  std::vector<l2m::cuda::Field> fields_;
};

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "CUDA kernels of l2m_fast. Addresses are in memory of the current device; calls are asynchronous.";
  using WithoutGil = py::call_guard<py::gil_scoped_release>;  // a launch waits while the queue of its stream is full
  m.def("why_no_device", &l2m::cuda::why_no_device,
        "Return why the kernels run on no device, empty if they run on one. Initializes the driver.");
  m.def("why_not_on_current_device", &l2m::cuda::why_not_on_current_device,
        "Return why the kernels do not run on the current device, empty if they do. Creates a context.");
  m.attr("PARTIALS") = l2m::cuda::kPartials * l2m::cuda::kMaxBlocks;
  m.def("add_class_loss", &add_class_loss, py::arg("losses"), py::arg("loss_type"), py::arg("classes"),
        py::arg("class_bytes"), py::arg("classes_signed"), py::arg("n"), py::arg("totals"), py::arg("stream"),
        WithoutGil(),
        "Add losses per class, see cpp/cuda/class_loss.hpp.\n\n"
        "totals are (num_classes, digits, count, skipped). A failed launch is a RuntimeError.");
  m.def("cross_entropy", &cross_entropy, py::arg("logits"), py::arg("logit_type"), py::arg("targets"),
        py::arg("losses"), py::arg("classes"), py::arg("class_bytes"), py::arg("classes_signed"), py::arg("totals"),
        py::arg("stream"), WithoutGil(),
        "Compute the cross entropy of logits, see cpp/cuda/cross_entropy.hpp.\n\n"
        "targets are (targets, n, num_columns, weight or 0, ignore_index, label_smoothing, offsets or 0), losses are\n"
        "(log_sum_exp, losses, mean, dtype of the mean, total_weight, invalid_targets, partials), totals\n"
        "as in add_class_loss(), but they need no initial value. A failed launch is a RuntimeError.");
  m.def("cross_entropy_gradient", &cross_entropy_gradient, py::arg("logits"), py::arg("logit_type"), py::arg("targets"),
        py::arg("log_sum_exp"), py::arg("total_weight"), py::arg("of_loss"), py::arg("of_loss_type"),
        py::arg("gradient"), py::arg("stream"), WithoutGil(),
        "Compute the gradient with respect to the logits; of_loss is one value, targets as in cross_entropy().");
  py::classh<Gather>(m, "Gather", "Fields in device memory or pinned memory, whose rows are gathered on the device.")
      .def(py::init<const std::vector<Gather::Field>&>(), py::arg("fields"),
           "Create from fields (address, stride, row bytes, None or (dtype, mean, std, channels, bytes of a channel)).")
      .def(
          "__call__", &Gather::operator(), py::arg("rows"), py::arg("sizes"), py::arg("outs"), py::arg("stream"),
          WithoutGil(),
          "Copy the rows of one or more batches, with int64 ids at `rows`, to one output per batch and field, aligned to\n"
          "16 bytes: first all fields of the first batch.");
}
