// SPDX-License-Identifier: Apache-2.0
// Masked cross-entropy and Dice sums where targets and known voxels are bits: a word of 64 voxels at a time.
#pragma once

#include "rsuper/chunks.h"

namespace rsuper {

struct BitChunk {
  const Word *targets, *known;  // of the chunk's first row; the others follow row_words apart
  std::int64_t row_words;
  const float* weights;  // of the target voxels from the chunk's first on, or null
};

// Adds to the six sums of masked_bce_dice.h.
void add_bit_terms(const float* x, const BitChunk& bits, const Chunk& chunk, double* sums);

// grad holds the gradients of the six sums.
void add_bit_slopes(const float* x, const BitChunk& bits, const Chunk& chunk, const float* grad, float* slopes);

}  // namespace rsuper
