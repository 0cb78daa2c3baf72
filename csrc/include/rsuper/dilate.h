// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/bit_rows.h"

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
//   src     [n, d, h, words of a row]
//   dst     [n, d, h, words of a row]  every word is written; may be src itself
//   passes  structuring elements, applied one after the other; no pass copies the mask, an empty pass clears it
// The result does not depend on `threads`.
void dilate(const Word* src, Word* dst, const Shape& shape, const std::vector<Pass>& passes, int threads);

}  // namespace rsuper
