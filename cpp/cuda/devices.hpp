#pragma once

namespace l2m::cuda {

/// Return the number of devices; 0 if there is no driver.
int device_count();

}  // namespace l2m::cuda
