// SPDX-License-Identifier: Apache-2.0
// Binary dilation of bit masks by one structuring element, in one launch: a thread for each word of the output.
//
// Runs come from the widest to the narrowest. At half width j a thread has the OR of the words that runs at least so wide
// reach, and spreads it by exactly j voxels to either side: smaller shifts follow further down, with more runs. So a run
// costs one load of a word and of its two neighbours, and a half width a few shifts, however many runs there are.
#include "rsuper/words.h"

namespace {

using rsuper::kWordBits;
using rsuper::Word;

struct Run {
  int dz, dy, half_width;
};

// As ops/dilate/cuda.py packs it: half width, dz and dy in 32, 16 and 16 bits.
__device__ Run unpacked(int64_t run) {
  const int offsets = static_cast<int>(run);
  return {offsets >> 16, static_cast<int16_t>(offsets), static_cast<int>(run >> 32)};
}

// The part of a word's voxels that falls on another one when they move by `distance`, measured from that one's first.
__device__ Word moved(Word word, int distance) {
  if (distance <= -kWordBits || distance >= kWordBits) return 0;
  return distance < 0 ? word >> -distance : word << distance;
}

// A mask of the volume.
struct Mask {
  const Word* words;
  int depth, height, row_words;
};

// Three words of a row, and where their first voxels are as seen from the first voxel of the word that they spread to.
struct Window {
  Word words[3];
  int distance;

  __device__ Word spread(int half_width) const {
    Word out = 0;
    for (int i = 0; i < 3; ++i) {
      const int base = distance + i * static_cast<int>(kWordBits);
      out |= moved(words[i], base + half_width) | moved(words[i], base - half_width);
    }
    return out;
  }
};

// What the words from `first` to `first` + 2 of the rows around (z, y) bring to word k of that row.
__device__ Word dilated_by(const Mask& mask, const int64_t* runs, int count, int z, int y, int k, int first) {
  constexpr int kBatch = 4;  // runs whose words are on their way at once
  Window window{{}, (first - k) * static_cast<int>(kWordBits)};
  Word out = 0;
  int half_width = unpacked(runs[0]).half_width;
  for (int start = 0; start < count; start += kBatch) {
    int half_widths[kBatch];
    Word words[kBatch][3];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const Run run = unpacked(runs[min(start + b, count - 1)]);  // the last one again does no harm
      half_widths[b] = run.half_width;
      const int row_z = z - run.dz, row_y = y - run.dy;
      const bool inside = row_z >= 0 && row_z < mask.depth && row_y >= 0 && row_y < mask.height;
      const Word* row = mask.words + (row_z * mask.height + row_y) * mask.row_words;
      for (int s = 0; s < 3; ++s)
        words[b][s] = inside && first + s >= 0 && first + s < mask.row_words ? row[first + s] : 0;
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
#pragma unroll 1
      for (; half_width > half_widths[b]; --half_width) out |= window.spread(half_width);
      for (int s = 0; s < 3; ++s) window.words[s] |= words[b][s];
    }
  }
  for (; half_width >= 0; --half_width) out |= window.spread(half_width);
  return out;
}

__device__ Word dilated(const Mask& mask, const int64_t* runs, int count, int z, int y, int k) {
  if (count == 0) return 0;
  const int reach = unpacked(runs[0]).half_width;
  Word out = 0;
  // by windows of three words: around this one, then to the right and to the left as far as the element reaches
  for (int n = 0; reach > (3 * abs(n) - 2) * static_cast<int>(kWordBits); n = n > 0 ? -n : 1 - n) {
    const int first = k - 1 + 3 * n;
    if (first + 2 >= 0 && first < mask.row_words) out |= dilated_by(mask, runs, count, z, y, k, first);
  }
  return out;
}

}  // namespace

// words, masks, out [masks, depth, height, row words]: `words` are dilated, `masks` are what they were before any dilation.
// runs [run_count] from the widest to the narrowest. With `exclusive`, row n of beside_ranges [masks, 2] tells where in `beside` the
// masks start and end that mask n is kept apart from, or by an end of -1 that it stays as it is; else neither is read.
extern "C" __global__ void __launch_bounds__(256)
    dilate(const uint64_t* words, const uint64_t* masks, uint64_t* out, const int64_t* runs, int64_t run_count,
           const int64_t* beside_ranges, const int64_t* beside, int64_t exclusive, int64_t depth, int64_t height,
           int64_t width) {
  const int64_t n = blockIdx.y;
  const int row_words = static_cast<int>(rsuper::words_per_row(width));
  const int size = static_cast<int>(depth * height) * row_words;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= size) return;
  const int64_t first = exclusive ? beside_ranges[2 * n] : 0, end = exclusive ? beside_ranges[2 * n + 1] : 0;
  const Word before = masks[n * size + i];
  if (end < 0) {
    out[n * size + i] = before;
    return;
  }
  const Mask mask{words + n * size, static_cast<int>(depth), static_cast<int>(height), row_words};
  const int k = i % row_words, row = i / row_words;
  Word word = dilated(mask, runs, static_cast<int>(run_count), row / mask.height, row % mask.height, k);
  if (k == row_words - 1) word &= rsuper::last_word_mask(width);
  for (int64_t b = first; b < end; ++b) word &= ~masks[beside[b] * size + i];
  if (first < end) word |= before;
  out[n * size + i] = word;
}
