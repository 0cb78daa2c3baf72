// SPDX-License-Identifier: Apache-2.0
// A voxel is one 64-bit key, its probability above and its index, inverted, below: keys differ, and the order of keys is
// the order of selection, ties included.
#pragma once

#include "rsuper/bit_cast.h"

namespace rsuper {

using Key = std::uint64_t;
constexpr Key kNoKey = ~Key{0};  // above all keys

// Probabilities are not negative, so their bits are in their order; adding 0 makes -0 one of them. A plane has fewer than
// 2^32 voxels.
RSUPER_HOST_DEVICE inline Key key_of(float probability, std::int64_t index) {
  return static_cast<Key>(bit_cast<std::uint32_t>(probability + 0.0f)) << 32 | (0xffffffffu - static_cast<Key>(index));
}

// Rises while the probability falls.
RSUPER_HOST_DEVICE inline std::uint32_t falling_key(float probability) {
  return ~bit_cast<std::uint32_t>(probability + 0.0f);
}

}  // namespace rsuper
