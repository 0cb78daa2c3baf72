// SPDX-License-Identifier: Apache-2.0
// Of n ranked voxels, rank r weighs n d^r / sum of d^i over all n: by these functions d, d^r and n / sum.
#pragma once

#include "rsuper/device.h"

namespace rsuper {

// Weights fall from one rank to the next by this factor, which is rounded to float as in the public code.
RSUPER_HOST_DEVICE inline double decay_of(std::int64_t count, double concentration) {
  return static_cast<float>(pow(1 - concentration, 1.0 / static_cast<double>(count > 1 ? count : 1)));
}

// d^rank; the logarithm keeps the digits that d next to 1 does not show.
RSUPER_HOST_DEVICE inline double decay_power(double decay, std::int64_t rank) {
  return exp(static_cast<double>(rank) * log1p(decay - 1));
}

// n / sum of d^i, by the sum of a geometric series.
RSUPER_HOST_DEVICE inline double weight_scale(double decay, std::int64_t count) {
  if (decay == 1) return 1;
  return static_cast<double>(count) * (decay - 1) / expm1(static_cast<double>(count) * log1p(decay - 1));
}

}  // namespace rsuper
