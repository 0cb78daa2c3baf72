// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rsuper/masks.h"
#include "rsuper/terms.h"

namespace rsuper {

struct AttenuationMasks {
  Array ct;            // [samples, voxels]
  Mask tumour, organ;  // one row for each group
  std::vector<std::int64_t> samples;  // of each group
  double low, high;    // to which the CT is clipped
  double eps;
};

// Weight, mean and sum of squares about the mean of some voxels.
struct Moments {
  double weight = 0, mean = 0, squares = 0;
};

// What the op returns. Its mean is a little smaller than the true one: it divides by the weight + eps.
struct Stats {
  double total, mean, sd;  // total = weight + eps
  double residual;         // weighted sum of value - mean, over total
};

// The slope of a mask's voxel is c0 + c1 (v - mean) + c2 (v - mean)^2.
struct Slope {
  float mean, c0, c1, c2;
};

// Six outputs for each group: of tumour and organ the weight, the mean and the sd.
class AttenuationTerm : public Term {
 public:
  // grad_organ [groups, voxels], of the organ's type, is written by add_slopes unless null.
  AttenuationTerm(AttenuationMasks masks, std::vector<std::int64_t> planes, bool sigmoid, void* grad_organ);

  int outputs() const override { return 6; }
  int partials() const override { return 6; }
  bool empty(std::int64_t group, const Chunk& chunk) const override;
  void add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const override;
  void finish(const double* partials, std::int64_t chunks, double* out) const override;
  void prepare(const Logits& logits, const float* grad, int threads) override;
  void add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                  float* slopes) const override;

 private:
  struct Values;
  Stats stats_of(const double* partials, std::int64_t chunks, int mask) const;

  const AttenuationMasks masks_;
  const bool sigmoid_;
  void* const grad_organ_;
  std::vector<Slope> slopes_;  // tumour and organ of each group
};

}  // namespace rsuper
