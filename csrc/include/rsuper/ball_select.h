// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/ball_search.h"

namespace rsuper {

struct Selection {
  std::int64_t centre;                // linear index, -1 selects nothing
  std::vector<double> squared_radii;  // mm2, ascending: the first whose ball holds `needed` available voxels, or the last
  std::int64_t needed;
  std::vector<std::int64_t> counts;   // voxels of each selection
  double steps[3];                    // mm
  bool outside_competes;              // voxels outside the ball rank as probability 0, and are lost when selected
};

// masks [1 + counts, voxels]: the ball, then its most probable voxels for each count, ties from the lowest index. Every
// voxel is written, 0 or 1.
void ball_select(const float* probability, const std::uint8_t* available, const Grid& grid, const Selection& selection,
                 std::uint8_t* masks);

// weights [voxels]: n d^rank / sum of d^i over the n voxels of the mask by descending probability, ties from the lowest
// index, d = float((1 - concentration)^(1 / n)); 0 outside the mask. Every voxel is written.
void rank_weights(const float* probability, const std::uint8_t* mask, std::int64_t voxels, double concentration,
                  float* weights);

}  // namespace rsuper
