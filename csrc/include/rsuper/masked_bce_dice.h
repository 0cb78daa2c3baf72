// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/chunks.h"

namespace rsuper {

constexpr int kSums = 6;  // positive_bce, negative_bce, tp, fp, fn, known

// Target g belongs to plane planes[g] of the logits. weights.data may be null.
struct BceDiceInputs {
  Array logits;                   // [planes, voxels]
  Array targets, known, weights;  // [targets, voxels]
  std::int64_t voxels;            // of a plane
  std::vector<std::int64_t> planes;
  bool sigmoid;
};

// sums [targets, kSums]
void masked_bce_dice(const BceDiceInputs& inputs, float* sums, int threads);

// grad [targets, kSums] -> grad_logits [plane_count, voxels], of the logits' type, written whole.
void masked_bce_dice_backward(const BceDiceInputs& inputs, const float* grad, std::int64_t plane_count,
                              void* grad_logits, int threads);

}  // namespace rsuper
