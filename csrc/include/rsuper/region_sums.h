// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rsuper/masks.h"
#include "rsuper/terms.h"

namespace rsuper {

// For each group the sum of region * p, with p = sigmoid(x), or x itself, and, if asked for, the voxels of the region,
// which must then be bits. The region of group g is mask rows[g] of `regions`, whose values are weights.
class RegionTerm : public Term {
 public:
  RegionTerm(Mask regions, std::vector<std::int64_t> planes, std::vector<std::int64_t> rows, bool sigmoid,
             bool count_voxels);

  int outputs() const override { return count_voxels_ ? 2 : 1; }
  int partials() const override { return outputs(); }
  bool empty(std::int64_t group, const Chunk& chunk) const override;
  void add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const override;
  void add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                  float* slopes) const override;

 private:
  const Mask regions_;
  const std::vector<std::int64_t> rows_;
  const bool sigmoid_, count_voxels_;
};

}  // namespace rsuper
