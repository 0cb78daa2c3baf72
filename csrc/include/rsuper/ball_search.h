// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "rsuper/ball_scores.h"
#include "rsuper/masked_field.h"

namespace rsuper {

struct BestBall {
  std::int64_t centre;  // linear index, -1 where nothing is available
  double score;
};

// The centre, in the bounding box of the available voxels, whose ball holds the most of the field; of scores within 1e-6
// of the best, the lowest index. The result does not depend on `threads`.
BestBall find_ball(const MaskedField& field, const Pyramid& sums, const BallKernel& kernel, int threads);

// The same for a dense `probability` on the voxels where `available` is not 0.
BestBall ball_search(const float* probability, const std::uint8_t* available, const Grid& grid,
                     const BallKernel& kernel, int threads);

}  // namespace rsuper
