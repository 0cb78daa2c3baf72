// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rsuper/bce_dice_bits.h"
#include "rsuper/masks.h"
#include "rsuper/terms.h"

namespace rsuper {

constexpr int kSums = 6;  // positive_bce, negative_bce, tp, fp, fn, known

// The masks of the groups, one row each. Either targets and known are bits, and weights, if given, are those of each
// group's target voxels by rising index [groups, weight_stride], others weighing 1; or none is bits, and weights, if
// given, are as large as the masks.
struct BceDiceMasks {
  Mask targets, known;
  Array weights;
  std::int64_t weight_stride;
};

// kSums outputs for each group.
class BceDiceTerm : public Term {
 public:
  BceDiceTerm(BceDiceMasks masks, std::vector<std::int64_t> planes, bool sigmoid);

  int outputs() const override { return kSums; }
  int partials() const override { return kSums; }
  bool empty(std::int64_t group, const Chunk& chunk) const override { return masks_.known.empty(group, chunk); }
  void add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const override;
  void add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                  float* slopes) const override;

 private:
  bool by_bits() const { return sigmoid_ && masks_.targets.is_bits(); }
  const float* weights_of(std::int64_t group, const Chunk& chunk) const;
  BitChunk bits_of(std::int64_t group, const Chunk& chunk) const;

  const BceDiceMasks masks_;
  const bool sigmoid_;
  std::vector<std::int64_t> targets_before_;  // [groups, rows]: target voxels before a row
};

}  // namespace rsuper
