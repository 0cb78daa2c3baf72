// SPDX-License-Identifier: Apache-2.0
// The voxels of a ball, row by row. They are decided in double, everywhere by the same roundings: compile this without
// contraction of products and sums.
#pragma once

#include "rsuper/device.h"

namespace rsuper {

struct BallRows {
  double steps[3];  // mm
  double limit;     // mm2
  std::int64_t z, y, x;

  RSUPER_HOST_DEVICE double squared(std::int64_t offset, int axis) const {
    const double distance = static_cast<double>(offset) * steps[axis];
    return distance * distance;
  }

  // Offsets along an axis of which the ball, at a squared distance `aside`, has voxels; -1 for none.
  RSUPER_HOST_DEVICE std::int64_t reach(double aside, int axis) const {
    if (aside > limit) return -1;
    auto offset = static_cast<std::int64_t>(sqrt(limit - aside) / steps[axis]);
    while (aside + squared(offset, axis) > limit) --offset;
    while (aside + squared(offset + 1, axis) <= limit) ++offset;
    return offset;
  }

  // Voxels on either side of x that a row has in the ball; -1 for none.
  RSUPER_HOST_DEVICE std::int64_t half_width(std::int64_t row_z, std::int64_t row_y) const {
    return reach(squared(row_z - z, 0) + squared(row_y - y, 1), 2);
  }
};

}  // namespace rsuper
