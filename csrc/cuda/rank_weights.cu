// SPDX-License-Identifier: Apache-2.0
// Weights of masked voxels by the rank of their probability: a block for each mask.
//
//   1. The probabilities are gathered by rising index, a tile of words at a time.
//   2. A stable radix sort by falling probability, 8 bits at a time. Each warp has a part of the items to itself: it counts
//      its digits, all warps add up where the items of each go, and it moves them there, 32 at a time.
//   3. Rank after rank is weighed, and the weight written to the voxel's place among the gathered.
#include "rsuper/halves.h"
#include "rsuper/logistic.h"
#include "rsuper/rank_weights.h"
#include "rsuper/voxel_keys.h"
#include "rsuper/words.h"

namespace {

using rsuper::Word;

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kDigit = 8;
constexpr int kDigits = 1 << kDigit;

// The key above, the place among the gathered voxels below.
using Item = uint64_t;

// As ops/ball_select/cuda.py numbers them.
enum Type { kFloat, kHalf, kBfloat };

__device__ float probability_at(const void* logits, int64_t i, int64_t type, int64_t sigmoid) {
  float value;
  switch (type) {
    case kFloat: value = static_cast<const float*>(logits)[i]; break;
    case kHalf: value = rsuper::half_to_float(static_cast<const uint16_t*>(logits)[i]); break;
    default: value = rsuper::bfloat_to_float(static_cast<const uint16_t*>(logits)[i]);
  }
  return sigmoid ? rsuper::sigmoid(value) : value;
}

// The sum of the values of the lanes before this one; `total` becomes that of all.
__device__ int sum_before_lane(int value, int* total) {
  const int lane = threadIdx.x % 32;
  int sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  *total = __shfl_sync(kAllLanes, sum, 31);
  return sum - value;
}

// The same for threads and their block.
__device__ int sum_before_thread(int value, int* of_warps, int* total) {
  const int warp = threadIdx.x / 32;
  int of_warp;
  int before = sum_before_lane(value, &of_warp);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[warp] = of_warp;
  __syncthreads();
  *total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += of_warps[w];
    *total += of_warps[w];
  }
  return before;
}

// Appends the probabilities of the voxels of a word, `place` on, by a whole warp.
__device__ void gather_word(const void* logits, int64_t first_voxel, int64_t type, int64_t sigmoid, Word word, int place,
                            int limit, Item* items) {
  const int lane = threadIdx.x % 32;
  for (int half = 0; half < 2; ++half) {
    const auto bits = static_cast<uint32_t>(word >> 32 * half);
    const int at = place + __popc(bits & ((1u << lane) - 1));
    if (bits >> lane & 1 && at < limit) {
      const float probability = probability_at(logits, first_voxel + 32 * half + lane, type, sigmoid);
      items[at] = static_cast<Item>(rsuper::falling_key(probability)) << 32 | static_cast<uint32_t>(at);
    }
    place += __popc(bits);
  }
}

// Gathers the voxels of a mask; returns how many, at most `limit`.
__device__ int gather(const void* logits, int64_t plane, int64_t type, int64_t sigmoid, const Word* words, int64_t rows,
                      int64_t width, int limit, int* of_warps, Item* items) {
  const int64_t row_words = rsuper::words_per_row(width), count = rows * row_words;
  int gathered = 0;
  for (int64_t start = 0; start < count; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    const Word word = i < count ? words[i] : 0;
    int total;
    const int place = gathered + sum_before_thread(__popcll(word), of_warps, &total);
    const int64_t first_voxel = plane + i / row_words * width + i % row_words * rsuper::kWordBits;
    for (unsigned filled = __ballot_sync(kAllLanes, word != 0); filled != 0; filled &= filled - 1) {
      const int lane = __ffs(filled) - 1;
      gather_word(logits, __shfl_sync(kAllLanes, first_voxel, lane), type, sigmoid, __shfl_sync(kAllLanes, word, lane),
                  __shfl_sync(kAllLanes, place, lane), limit, items);
    }
    gathered += total;
  }
  __syncthreads();
  return min(gathered, limit);
}

// The lanes whose digit is this lane's, among those that have an item.
__device__ unsigned lanes_alike(int digit, bool has_item) {
  unsigned alike = __ballot_sync(kAllLanes, has_item);
  for (int bit = 0; bit < kDigit; ++bit) {
    const bool set = digit >> bit & 1;
    const unsigned lanes = __ballot_sync(kAllLanes, set);
    alike &= set ? lanes : ~lanes;
  }
  return alike;
}

// One pass of the sort: from `in` to `out` by the digit at `shift`. `starts` holds a row of digits for each warp.
__device__ void sort_pass(const Item* in, Item* out, int count, int shift, int (*starts)[kDigits], int* of_warps) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int each = (count + kWarps * 32 - 1) / (kWarps * 32) * 32;
  const int first = min(warp * each, count), end = min(first + each, count);
  for (int digit = lane; digit < kDigits; digit += 32) starts[warp][digit] = 0;
  __syncwarp();
  for (int i = first + lane; i < end; i += 32) atomicAdd(&starts[warp][in[i] >> shift & (kDigits - 1)], 1);
  __syncthreads();

  // a thread for each digit: where its items start, and where those of each warp do
  const int digit = threadIdx.x;
  int own = 0;
  if (digit < kDigits)
    for (int w = 0; w < kWarps; ++w) own += starts[w][digit];
  int total;
  int start = sum_before_thread(own, of_warps, &total);
  if (digit < kDigits)
    for (int w = 0; w < kWarps; ++w) {
      const int of_warp = starts[w][digit];
      starts[w][digit] = start;
      start += of_warp;
    }
  __syncthreads();

  Item next = first + lane < end ? in[first + lane] : 0;
  for (int base = first; base < end; base += 32) {
    const Item item = next;
    const bool has_item = base + lane < end;
    if (base + 32 + lane < end) next = in[base + 32 + lane];  // on its way while this one is placed
    const int own_digit = static_cast<int>(item >> shift & (kDigits - 1));
    const unsigned alike = lanes_alike(own_digit, has_item);
    const int before = __popc(alike & ((1u << lane) - 1));
    // the first lane of each digit takes places for all of them
    int place = has_item && before == 0 ? atomicAdd(&starts[warp][own_digit], __popc(alike)) : 0;
    place = __shfl_sync(kAllLanes, place, __ffs(alike) - 1) + before;
    if (has_item) out[place] = item;
  }
  __syncthreads();
}

}  // namespace

// logits [planes, rows * width] of `type`, words [masks, rows, row words], planes [masks], items [masks, 2, limit], weights
// [masks, limit]. Voxels of a mask beyond `limit` are left out.
extern "C" __global__ void __launch_bounds__(kThreads)
    foreground_weights(const void* logits, const uint64_t* words, const int64_t* planes, uint64_t* items, float* weights,
                       int64_t limit, int64_t rows, int64_t width, int64_t type, int64_t sigmoid,
                       double concentration) {
  __shared__ int starts[kWarps][kDigits];
  __shared__ int of_warps[kWarps];

  const int64_t mask = blockIdx.x;
  Item *in = items + 2 * mask * limit, *out = in + limit;
  const int count = gather(logits, planes[mask] * rows * width, type, sigmoid,
                           words + mask * rows * rsuper::words_per_row(width), rows, width, static_cast<int>(limit),
                           of_warps, in);
  for (int shift = 32; shift < 64; shift += kDigit) {
    sort_pass(in, out, count, shift, starts, of_warps);
    Item* sorted = out;
    out = in;
    in = sorted;
  }

  float* own = weights + mask * limit;
  const double decay = rsuper::decay_of(count, concentration);
  const double step = rsuper::decay_power(decay, kThreads);
  double weight = rsuper::weight_scale(decay, count) * rsuper::decay_power(decay, threadIdx.x);
  for (int rank = threadIdx.x; rank < count; rank += kThreads) {
    own[static_cast<uint32_t>(in[rank])] = static_cast<float>(weight);
    weight *= step;
  }
  for (int64_t i = count + static_cast<int64_t>(threadIdx.x); i < limit; i += kThreads) own[i] = 0;
}
