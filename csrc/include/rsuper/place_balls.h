// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/ball_scores.h"
#include "rsuper/ball_select.h"
#include "rsuper/bit_rows.h"
#include "rsuper/chunks.h"

namespace rsuper {

struct Tumour {
  std::int64_t mask;    // of the allowed regions
  BallKernel kernel;
  Selection selection;  // its centre is found; counts: core, body, ring
};

struct Planes {
  Array logits;  // [planes of the batch, voxels]
  bool sigmoid;  // else logits are probabilities
  Grid grid;
  const Word* masks;                          // allowed regions
  std::vector<std::int64_t> planes;           // of `logits`
  std::vector<std::vector<Tumour>> tumours;   // of each plane, in the order of placing
};

// Places each tumour on what its mask allows and the bodies of the plane's earlier ones left. unions [3, planes]: core,
// body and ring of all tumours of a plane; bodies: of each tumour, plane after plane, or null. Every word is written.
void place_balls(const Planes& planes, Word* unions, Word* bodies, int threads);

}  // namespace rsuper
