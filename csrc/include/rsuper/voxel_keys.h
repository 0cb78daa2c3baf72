// SPDX-License-Identifier: Apache-2.0
// A voxel is one 64-bit key, its probability above and its index, inverted, below: keys differ, and the order of keys is
// the order of selection, ties included.
#pragma once

#include <cstdint>

#include "rsuper/logistic.h"

namespace rsuper {

using Key = std::uint64_t;

// Probabilities are not negative, so their bits are in their order. A plane has fewer than 2^32 voxels.
inline Key key_of(float probability, std::int64_t index) {
  return static_cast<Key>(bit_cast<std::uint32_t>(probability + 0.0f)) << 32 | (0xffffffffu - static_cast<Key>(index));
}

inline std::int64_t index_of(Key key) { return 0xffffffffu - (key & 0xffffffffu); }

}  // namespace rsuper
