// SPDX-License-Identifier: Apache-2.0
// Sums over the voxels of planes of logits, of several kinds at once: each chunk of logits is read once for all of them,
// and its gradient is written once.
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/chunks.h"

namespace rsuper {

struct Logits {
  Array array;  // [planes, voxels]
  Volume volume;
  std::int64_t planes;
};

// One kind of sums, for some groups of voxels of one plane each.
class Term {
 public:
  virtual ~Term() = default;
  std::int64_t groups() const { return static_cast<std::int64_t>(planes_.size()); }
  std::int64_t plane(std::int64_t group) const { return planes_[group]; }

  virtual int outputs() const = 0;   // numbers that the term has for each group
  virtual int partials() const = 0;  // numbers that a chunk leaves for each group; zeros mean nothing
  // Whether a chunk contributes nothing, neither to the outputs nor to the gradient.
  virtual bool empty(std::int64_t group, const Chunk& chunk) const = 0;
  // Adds what a chunk with the logits x leaves.
  virtual void add(std::int64_t group, const Chunk& chunk, const float* x, double* partial) const = 0;
  // What the partials that the chunks left amount to; their sums if not said otherwise.
  virtual void finish(const double* left, std::int64_t chunks, double* out) const;
  // Called before add_slopes: `grad` holds the gradients of the outputs, [groups, outputs].
  virtual void prepare(const Logits&, const float* /*grad*/, int /*threads*/) {}
  // Adds the gradient of the logits of a chunk; `grad` holds the gradients of this group's outputs.
  virtual void add_slopes(std::int64_t group, const Chunk& chunk, const float* x, const float* grad,
                          float* slopes) const = 0;

 protected:
  explicit Term(std::vector<std::int64_t> planes) : planes_(std::move(planes)) {}

 private:
  std::vector<std::int64_t> planes_;  // of each group
};

using Terms = std::vector<const Term*>;

// What the chunks leave, [groups, chunks, partials] of each term.
using Partials = std::vector<std::vector<double>>;
Partials partials_of(const Logits& logits, const Terms& terms, int threads);

// The terms' outputs one after the other, [groups, outputs] each, in double.
std::vector<double> sums(const Logits& logits, const Terms& terms, int threads);

// grad as the outputs of `sums` -> grad_logits [planes, voxels] of the logits' type, written whole.
void sums_backward(const Logits& logits, const std::vector<Term*>& terms, const float* grad, void* grad_logits,
                   int threads);

}  // namespace rsuper
