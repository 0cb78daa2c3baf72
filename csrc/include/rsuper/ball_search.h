// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace rsuper {

struct Grid {
  std::int64_t d, h, w;
  std::int64_t voxels() const { return d * h * w; }
};

// A ball: its runs (dz, dy, half width) as geometry.ball_element gives them, and Gaussian weights exp(-falloff r^2), which
// are divided by `total`, their sum over the ball.
struct BallKernel {
  std::vector<std::int32_t> runs;  // three numbers each
  double steps[3];                 // mm
  double falloff, total;
};

struct BestBall {
  std::int64_t centre;  // linear index, -1 where nothing is available
  double score;
};

// The centre whose ball holds the most of `probability` on the `available` voxels; of scores within 1e-6 of the best, the
// lowest index. The result does not depend on `threads`.
BestBall ball_search(const float* probability, const std::uint8_t* available, const Grid& grid,
                     const BallKernel& kernel, int threads);

}  // namespace rsuper
