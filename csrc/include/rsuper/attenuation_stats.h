// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/chunks.h"

namespace rsuper {

struct AttenuationInputs {
  Array ct;                         // [samples, voxels]
  Array logits;                     // [planes, voxels]
  Array tumour, organ;              // [groups, voxels]
  std::int64_t voxels;              // of a plane
  std::vector<std::int64_t> planes, samples;  // of each group
  double eps;
  bool sigmoid;
};

// stats [groups, 2, 3]: of tumour and organ the weight, the mean and the sd.
void attenuation_stats(const AttenuationInputs& inputs, float* stats, int threads);

// grad [groups, 2, 3] -> grad_logits [plane_count, voxels] of the logits' type and, unless null, grad_organ
// [groups, voxels] of the organ's type; both are written whole.
void attenuation_stats_backward(const AttenuationInputs& inputs, const float* grad, std::int64_t plane_count,
                                void* grad_logits, void* grad_organ, int threads);

}  // namespace rsuper
