// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/masked_field.h"

namespace rsuper {

struct Selection {
  std::int64_t centre;                // linear index, -1 selects nothing
  std::vector<double> squared_radii;  // mm2, ascending: the first whose ball holds `needed` available voxels, or the last
  std::int64_t needed;
  std::vector<std::int64_t> counts;   // voxels of each selection
  double steps[3];                    // mm
};

// Adds bits to masks: to the first, unless null, the ball, to the following its most probable voxels for each count, ties
// from the lowest index. Returns a box that holds the ball.
Box select_in_ball(const MaskedField& field, const Selection& selection, const std::vector<Word*>& masks);

// masks [1 + counts, voxels] of 0 or 1, for a dense `probability` and the voxels where `available` is not 0; every voxel is
// written. With `outside_competes`, voxels outside the ball rank as probability 0, and are lost when selected.
void ball_select(const float* probability, const std::uint8_t* available, const Grid& grid, const Selection& selection,
                 bool outside_competes, std::uint8_t* masks);

// weights [voxels]: n d^rank / sum of d^i over the n voxels of the mask by descending probability, ties from the lowest
// index, d = float((1 - concentration)^(1 / n)); 0 outside the mask. Every voxel is written.
void rank_weights(const float* probability, const std::uint8_t* mask, std::int64_t voxels, double concentration,
                  float* weights);

// weights [limit]: the same for the available voxels alone, by rising index, then 0. Throws where they are more than that.
void foreground_weights(const MaskedField& field, double concentration, std::int64_t limit, float* weights);

}  // namespace rsuper
