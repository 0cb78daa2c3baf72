// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "rsuper/bit_rows.h"
#include "rsuper/chunks.h"

namespace rsuper {

// words [groups.size(), rows, words of a row]: the union of the planes of each group of `masks` [planes, rows, width],
// where every value but 0 is inside.
void pack_masks(const Array& masks, std::int64_t rows, std::int64_t width,
                const std::vector<std::vector<std::int64_t>>& groups, Word* words, int threads);

// words [samples.size(), rows, words of a row]: where row samples[g] of `labels` [samples, rows, width] holds one of ids[g].
void pack_labels(const Array& labels, std::int64_t rows, std::int64_t width, const std::vector<std::int64_t>& samples,
                 const std::vector<std::vector<std::int64_t>>& ids, Word* words, int threads);

// Whether an array holds nothing but 0 and 1.
bool holds_binary(const Array& array, std::int64_t count, int threads);

// voxels [rows, width], 0 or 1.
void unpack_masks(const Word* words, std::int64_t rows, std::int64_t width, std::uint8_t* voxels, int threads);

}  // namespace rsuper
