#include "dlpack.hpp"

#include <memory>
#include <utility>

namespace l2m::bindings {
namespace {

// The ABI of DLPack before version 1.0, which every consumer accepts.
struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
constexpr DLDevice kCpu{1, 0};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

struct Export {
  DLManagedTensor managed;
  std::vector<std::int64_t> shape;
  Block block;
};

}  // namespace

pybind11::capsule to_dlpack(Block block, DLDataType type, std::vector<std::int64_t> shape) {
  auto owner = std::make_unique<Export>();
  owner->shape = std::move(shape);
  owner->block = std::move(block);
  owner->managed = {.dl_tensor = {.data = owner->block.data(),
                                  .device = kCpu,
                                  .ndim = static_cast<std::int32_t>(owner->shape.size()),
                                  .dtype = type,
                                  .shape = owner->shape.data(),
                                  .strides = nullptr,  // compact
                                  .byte_offset = 0},
                    .manager_ctx = owner.get(),
                    .deleter = [](DLManagedTensor* self) { delete static_cast<Export*>(self->manager_ctx); }};
  pybind11::capsule capsule(&owner->managed, "dltensor", [](PyObject* self) {
    if (PyCapsule_IsValid(self, "dltensor") == 0) return;  // a consumer has taken it, which renames the capsule
    auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(self, "dltensor"));
    managed->deleter(managed);
  });
  (void)owner.release();
  return capsule;
}

}  // namespace l2m::bindings
