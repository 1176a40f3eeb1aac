#include <string>

#include "check.hpp"
#include "devices.cu"

namespace l2m::test {
namespace {

void test_reasons_for_all_devices() {
  CHECK(cuda::why_no_device().empty());
  cuda_on_cpu::compute_capability = 70;
  CHECK(cuda::why_no_device() == "the kernels need compute capability 7.5 or newer (got 7.0)");
  cuda_on_cpu::compute_capability = 75;
  CHECK(cuda::why_no_device().empty());
  cuda_on_cpu::driver = cudaErrorInvalidValue;
  CHECK(cuda::why_no_device() == "invalid");
  cuda_on_cpu::driver = cudaSuccess;
}

void test_reason_for_the_current_device() {
  CHECK(cuda::why_not_on_current_device().empty());
  cuda_on_cpu::loading = cudaErrorInvalidValue;
  CHECK(cuda::why_not_on_current_device() == "invalid");
  cuda_on_cpu::loading = cudaSuccess;
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_reasons_for_all_devices();
  l2m::test::test_reason_for_the_current_device();
}
