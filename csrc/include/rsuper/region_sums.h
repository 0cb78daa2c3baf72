// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/chunks.h"

namespace rsuper {

// The groups of a call: group g sums plane planes[g] of the logits over its region.
struct RegionGroups {
  Array logits;                      // [planes, voxels]
  Array regions;                     // masks [groups, voxels], or a label map [samples, voxels] if ids are given
  std::int64_t voxels;               // of a plane
  std::vector<std::int64_t> planes;  // plane of each group
  std::vector<std::int64_t> maps;    // row of `regions` of each group
  std::vector<std::vector<std::int64_t>> ids;  // empty, or the label ids of each group
  bool sigmoid;
};

// sums[g] = sum of region * sigmoid(logits) over the voxels of group g; one element of `sums` for each group.
void region_sums(const RegionGroups& groups, float* sums, int threads);

// grad_logits [plane_count, voxels], of the logits' type, is written whole: grad[g] * region * p (1 - p), added up over the
// groups of a plane.
void region_sums_backward(const RegionGroups& groups, const float* grad, std::int64_t plane_count, void* grad_logits,
                          int threads);

}  // namespace rsuper
