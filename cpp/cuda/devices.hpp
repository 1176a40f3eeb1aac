#pragma once

namespace l2m::cuda {

/// Devices there are; 0 also without a driver.
int device_count();

}  // namespace l2m::cuda
