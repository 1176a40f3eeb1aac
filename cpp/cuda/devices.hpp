#pragma once

#include <string>

/// Reasons why the kernels cannot run; empty if they can.
namespace l2m::cuda {

/// Return the reason for all devices together: an error of the driver, or the compute capability of the devices.
/// Initializes the driver, but creates no context.
std::string why_no_device();

/// Return the reason for the current device, after loading a kernel. Creates a context.
std::string why_not_on_current_device();

}  // namespace l2m::cuda
