// SPDX-License-Identifier: Apache-2.0
// Rows of voxels as bits: voxel x of a row is bit x % 64 of word x / 64, and the bits past the row's end stay zero.
#pragma once

#include "rsuper/device.h"

namespace rsuper {

using Word = std::uint64_t;
constexpr std::int64_t kWordBits = 64;

RSUPER_HOST_DEVICE inline std::int64_t words_per_row(std::int64_t width) { return (width + kWordBits - 1) / kWordBits; }

// The bits of a row's last word that are voxels.
RSUPER_HOST_DEVICE inline Word last_word_mask(std::int64_t width) {
  const std::int64_t used = width % kWordBits;
  return used == 0 ? ~Word{0} : (Word{1} << used) - 1;
}

}  // namespace rsuper
