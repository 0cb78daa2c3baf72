// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace rsuper {

struct Shape {
  std::int64_t n, d, h, w;
};

// One row of a structuring element: all offsets (dz, dy, dx) with |dx| <= half_width.
struct Run {
  std::int32_t dz, dy, half_width;
};

using Pass = std::vector<Run>;

// Binary dilation of n masks; voxels outside a mask count as zero, also between passes.
//   src     [n, d, h, w]  not zero = inside
//   dst     [n, d, h, w]  every voxel is written, 0 or 1; may be src itself
//   passes  structuring elements, applied one after the other; no pass copies the mask, an empty pass clears it
// The result does not depend on `threads`.
void dilate(const std::uint8_t* src, std::uint8_t* dst, const Shape& shape, const std::vector<Pass>& passes,
            int threads);

}  // namespace rsuper
