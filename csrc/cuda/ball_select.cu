// SPDX-License-Identifier: Apache-2.0
// The most probable voxels of balls: a block for each plane that has a tumour to be placed.
//
//   1. The ball grows until it holds enough voxels: a thread counts the bits of a row.
//   2. The lowest keys (probability, then index) of core, body and ring, by a radix select of all three at once: 11 bits at
//      a time, from the top, a histogram of those keys that share the bits found so far. It ends when whole bins are taken.
//   3. What is not below these keys is marked, and disappears from the plane's fields.
//   4. The bounding box of what that leaves to the plane's next tumour.
#include "rsuper/ball_rows.h"
#include "rsuper/voxel_keys.h"
#include "rsuper/words.h"

namespace {

using rsuper::BallRows;
using rsuper::Key;
using rsuper::Word;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSelections = 3;  // core, body, ring
constexpr int kBody = 1;
constexpr int kDigit = 11;
constexpr int kBins = 1 << kDigit;
constexpr int kStart = 1 << 30;  // what the starts of a box are counted down from, so that all numbers are maxima

// As ops/ball_select/cuda.py writes them.
struct Task {
  int64_t plane, tumour, mask, field, first_field, field_count, needed;
  int64_t counts[kSelections];
  int64_t next_tumour, next_mask, first_radius, radius_count;
};

struct Volume {
  int depth, height, width, row_words;

  __device__ int64_t voxels() const { return static_cast<int64_t>(depth) * height * width; }
  __device__ int64_t words() const { return static_cast<int64_t>(depth) * height * row_words; }
};

struct Box {
  int z0, y0, x0, z1, y1, x1;
};

struct Span {
  int first, last;  // one past it
};

// What a tumour may have: a mask without the bodies that its plane has so far.
struct Available {
  const Word *mask, *taken;

  __device__ Word word(int64_t i) const { return mask[i] & ~taken[i]; }
};

// A ball, cut to the volume.
struct Ball {
  BallRows rows;
  Box box;

  __device__ Ball(const BallRows& centred, double limit, const Volume& volume) : rows(centred) {
    rows.limit = limit;
    const int64_t z = rows.reach(0, 0), y = rows.reach(0, 1), x = rows.reach(0, 2);
    box = {from(rows.z - z),
           from(rows.y - y),
           from(rows.x - x),
           to(rows.z + z, volume.depth),
           to(rows.y + y, volume.height),
           to(rows.x + x, volume.width)};
  }

  __device__ static int from(int64_t first) { return static_cast<int>(first > 0 ? first : 0); }
  __device__ static int to(int64_t last, int size) { return static_cast<int>(last + 1 < size ? last + 1 : size); }

  __device__ int row_count() const { return (box.z1 - box.z0) * (box.y1 - box.y0); }
  __device__ int row_z(int row) const { return box.z0 + row / (box.y1 - box.y0); }
  __device__ int row_y(int row) const { return box.y0 + row % (box.y1 - box.y0); }
  __device__ Span span(int row) const {
    const int64_t half_width = rows.half_width(row_z(row), row_y(row));
    if (half_width < 0) return {0, 0};
    const int64_t first = rows.x - half_width, last = rows.x + half_width + 1;
    return {static_cast<int>(first > box.x0 ? first : box.x0), static_cast<int>(last < box.x1 ? last : box.x1)};
  }
};

// The bits of a word or a piece of `size` bits, number i of its row, that a span holds.
template <typename Bits>
__device__ Bits clipped(Bits bits, int i, const Span& span) {
  constexpr int size = 8 * sizeof(Bits);
  const int first = span.first - i * size, last = span.last - i * size;
  if (first >= size || last <= 0 || first >= last) return 0;
  if (first > 0) bits &= ~Bits{0} << first;
  if (last < size) bits &= (Bits{1} << last) - 1;
  return bits;
}

// The sum of the block's values, for all its threads.
__device__ int block_sum(int value, int* of_warps) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  int sum = 0;
  for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp];
  __syncthreads();
  return sum;
}

__device__ int voxels_in(const Ball& ball, const Available& available, const Volume& volume, int* of_warps) {
  int count = 0;
  for (int row = threadIdx.x; row < ball.row_count(); row += kThreads) {
    const Span span = ball.span(row);
    if (span.first >= span.last) continue;
    const int64_t words = (static_cast<int64_t>(ball.row_z(row)) * volume.height + ball.row_y(row)) * volume.row_words;
    for (int i = span.first / 64; 64 * i < span.last; ++i)
      count += __popcll(clipped(available.word(words + i), i, span));
  }
  return block_sum(count, of_warps);
}

__device__ int voxels_in(const Available& available, const Volume& volume, int* of_warps) {
  const int words = static_cast<int>(volume.words());
  int count = 0;
#pragma unroll 4
  for (int i = threadIdx.x; i < words; i += kThreads) count += __popcll(available.word(i));
  return block_sum(count, of_warps);
}

// 32 voxels of a row, one for each lane of a warp.
struct Piece {
  int64_t place;   // of its bits among the volume's pieces
  uint32_t bits;   // what is available of the ball
  uint32_t index;  // linear, of the lane's voxel
  float value;
};

// Calls body(piece) with whole warps, for all pieces of the ball that have an available voxel. All threads come here.
template <typename Body>
__device__ void for_each_piece(const Ball& ball, const Available& available, const float* field, const Volume& volume,
                               Span* spans, const Body& body) {
  constexpr int kBatch = 4;  // rows that are read before the first of them is worked on
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const auto* masks = reinterpret_cast<const uint32_t*>(available.mask);
  const auto* taken = reinterpret_cast<const uint32_t*>(available.taken);
  for (int start = 0; start < ball.row_count(); start += kThreads) {
    const int rows = min(ball.row_count() - start, kThreads);
    __syncthreads();
    if (thread < rows) spans[thread] = ball.span(start + thread);
    __syncthreads();
    for (int i = ball.box.x0 / 32; 32 * i < ball.box.x1; ++i)
      for (int first = warp * kBatch; first < rows; first += kWarps * kBatch) {
        Piece pieces[kBatch];
        uint32_t mask[kBatch], lost[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          const int row = first + b;
          const Span span = row < rows ? spans[row] : Span{0, 0};
          const int64_t line = static_cast<int64_t>(ball.row_z(start + row)) * volume.height + ball.row_y(start + row);
          Piece& piece = pieces[b];
          piece.place = line * volume.row_words * 2 + i;
          piece.bits = clipped(kAllLanes, i, span);
          mask[b] = piece.bits != 0 ? masks[piece.place] : 0;
          lost[b] = piece.bits != 0 ? taken[piece.place] : 0;
          const int x = 32 * i + lane;
          piece.index = static_cast<uint32_t>(line * volume.width + x);
          piece.value = x >= span.first && x < span.last ? field[piece.index] : 0.0f;
        }
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
          pieces[b].bits &= mask[b] & ~lost[b];
          if (pieces[b].bits != 0) body(pieces[b]);
        }
      }
  }
  __syncthreads();
}

// The lowest key of each selection as far as it is known.
struct Search {
  Key found[kSelections];  // the bits above the current digit
  int rank[kSelections];   // how many of the keys with these bits are selected; 0 where nothing is left to find

  // The first selection that looks among the same keys: they share a histogram.
  __device__ int histogram_of(int selection) const {
    for (int s = 0; s < selection; ++s)
      if (rank[s] > 0 && found[s] == found[selection]) return s;
    return selection;
  }
};

// One more key in its bin, by all lanes that want it. Keys are often alike, so the lanes of one bin add up first.
__device__ void count_key(uint32_t* histogram, bool wanted, uint32_t bin) {
  const unsigned lanes = __ballot_sync(kAllLanes, wanted);
  if (lanes == 0) return;
  const int leader = __ffs(lanes) - 1;
  const uint32_t bin_of_leader = __shfl_sync(kAllLanes, bin, leader);
  const unsigned alike = __ballot_sync(kAllLanes, wanted && bin == bin_of_leader);
  if (static_cast<int>(threadIdx.x % 32) == leader) {
    atomicAdd(&histogram[bin], static_cast<uint32_t>(__popc(alike)));
  } else if (wanted && bin != bin_of_leader) {
    atomicAdd(&histogram[bin], 1u);
  }
}

// The sum of the lanes from this one on.
__device__ int sum_from_lane(int value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_down_sync(kAllLanes, value, step);
    if (lane + step < 32) value += other;
  }
  return value;
}

// One warp: the bin in which the `rank` highest keys end, and how many of them are in higher bins.
__device__ void find_bin(const uint32_t* histogram, int rank, int* bin, int* above) {
  constexpr int kEach = kBins / 32;
  const int lane = threadIdx.x % 32;
  int own = 0;
  for (int i = 0; i < kEach; ++i) own += histogram[lane * kEach + (i + lane) % kEach];  // each lane in its own bank
  const int from_here = sum_from_lane(own);
  // sums fall from lane to lane, so the last lane that has enough is the one
  const int part = 31 - __clz(__ballot_sync(kAllLanes, from_here >= rank));
  int higher = __shfl_sync(kAllLanes, from_here - own, part);
  for (int start = (part + 1) * kEach - 32;; start -= 32) {
    const int from_bin = higher + sum_from_lane(histogram[start + lane]);
    const unsigned enough = __ballot_sync(kAllLanes, from_bin >= rank);
    if (enough != 0) {
      const int last = 31 - __clz(enough);
      *bin = start + last;
      *above = __shfl_sync(kAllLanes, from_bin, last) - histogram[start + last];
      return;
    }
    higher = __shfl_sync(kAllLanes, from_bin, 0);
  }
}

// The bounding box of what is available, grown by words of rows; zeros where nothing is.
__device__ void write_box(const Available& available, const Volume& volume, int* box, int32_t* out) {
  if (threadIdx.x < 6) box[threadIdx.x] = 0;
  __syncthreads();
  const int words = static_cast<int>(volume.words());
  int most[6] = {};
#pragma unroll 4
  for (int i = threadIdx.x; i < words; i += kThreads) {
    const Word word = available.word(i);
    if (word == 0) continue;
    const int k = i % volume.row_words, row = i / volume.row_words;
    const int z = row / volume.height, y = row % volume.height;
    const int first = 64 * k + __ffsll(static_cast<long long>(word)) - 1;
    const int last = 64 * k + 63 - __clzll(static_cast<long long>(word));
    const int numbers[6] = {kStart - z, kStart - y, kStart - first, z + 1, y + 1, last + 1};
    for (int n = 0; n < 6; ++n) most[n] = max(most[n], numbers[n]);
  }
  for (int n = 0; n < 6; ++n) {
    for (int step = 16; step > 0; step /= 2) most[n] = max(most[n], __shfl_xor_sync(kAllLanes, most[n], step));
    if (threadIdx.x % 32 == 0) atomicMax(&box[n], most[n]);
  }
  __syncthreads();
  if (threadIdx.x < 6) out[threadIdx.x] = box[threadIdx.x];
}

}  // namespace

// fields [fields, voxels], words [masks, words], unions [3, planes, words], bodies [tumours, words] or none, boxes
// [tumours, 6], centres and tasks of as many as there are blocks, limits: squared radii in mm2.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    select_in_balls(float* fields, const uint64_t* words, uint64_t* unions, uint64_t* bodies, int64_t keep_bodies,
                    int32_t* boxes, const int64_t* centres, const int64_t* tasks, const double* limits, int64_t planes,
                    int64_t depth, int64_t height, int64_t width, double step_z, double step_y, double step_x) {
  __shared__ uint32_t histograms[kSelections][kBins];
  __shared__ Span spans[kThreads];
  __shared__ Search search;
  __shared__ int scratch[kWarps];

  const Task& task = reinterpret_cast<const Task*>(tasks)[blockIdx.x];
  const Volume volume{static_cast<int>(depth), static_cast<int>(height), static_cast<int>(width),
                      static_cast<int>(rsuper::words_per_row(width))};
  Word* masks[kSelections];
  for (int s = 0; s < kSelections; ++s) masks[s] = unions + (s * planes + task.plane) * volume.words();
  Word* body = keep_bodies ? bodies + task.tumour * volume.words() : nullptr;
  if (keep_bodies)
    for (int64_t i = threadIdx.x; i < volume.words(); i += kThreads) body[i] = 0;

  const int64_t centre = centres[blockIdx.x];
  if (centre >= 0) {
    const Available available{words + task.mask * volume.words(), masks[kBody]};
    const float* field = fields + task.field * volume.voxels();
    const BallRows centred{{step_z, step_y, step_x},
                           0,
                           centre / width / height,
                           centre / width % height,
                           centre % width};

    int64_t radius = task.first_radius;
    const int64_t last_radius = radius + task.radius_count - 1;
    Ball ball(centred, limits[radius], volume);
    int total = voxels_in(ball, available, volume, scratch);
    // nothing is gained by growing where no ball can hold enough
    if (total < task.needed && voxels_in(available, volume, scratch) < task.needed) radius = max(radius, last_radius - 1);
    while (total < task.needed && radius < last_radius) {
      ball = Ball(centred, limits[++radius], volume);
      total = voxels_in(ball, available, volume, scratch);
    }

    if (threadIdx.x < kSelections) {
      const int64_t count = task.counts[threadIdx.x];
      search.found[threadIdx.x] = count > 0 ? Key{0} : rsuper::kNoKey;
      search.rank[threadIdx.x] = count > 0 && count < total ? static_cast<int>(count) : 0;
    }
    __syncthreads();
    for (int known = 64; known > 0;) {
      if (search.rank[0] == 0 && search.rank[1] == 0 && search.rank[2] == 0) break;
      const int shift = max(known - kDigit, 0);
      for (int i = threadIdx.x; i < kSelections * kBins; i += kThreads) histograms[0][i] = 0;
      // the barriers inside come before the first count
      for_each_piece(ball, available, field, volume, spans, [&](const Piece& piece) {
        const Key key = rsuper::key_of(piece.value, piece.index);
        const bool inside = piece.bits >> threadIdx.x % 32 & 1;
        const auto bin = static_cast<uint32_t>(key >> shift & ((1 << (known - shift)) - 1));
        for (int s = 0; s < kSelections; ++s) {
          if (search.rank[s] == 0 || search.histogram_of(s) != s) continue;
          const bool among = known == 64 || (key ^ search.found[s]) >> known == 0;
          count_key(histograms[s], inside && among, bin);
        }
      });
      const int s = threadIdx.x / 32;
      int bin = 0, above = 0, source = 0;
      const bool searching = s < kSelections && search.rank[s] > 0;
      if (searching) {
        source = search.histogram_of(s);
        find_bin(histograms[source], search.rank[s], &bin, &above);
      }
      __syncthreads();
      if (searching && threadIdx.x % 32 == 0) {
        search.found[s] |= static_cast<Key>(bin) << shift;
        search.rank[s] -= above;
        // with all of its bin selected, the lowest key is not below the bin's first
        if (search.rank[s] == static_cast<int>(histograms[source][bin])) search.rank[s] = 0;
      }
      __syncthreads();
      known = shift;
    }

    for_each_piece(ball, available, field, volume, spans, [&](const Piece& piece) {
      const Key key = rsuper::key_of(piece.value, piece.index);
      const bool inside = piece.bits >> threadIdx.x % 32 & 1;
      uint32_t selected[kSelections];
      for (int s = 0; s < kSelections; ++s) selected[s] = __ballot_sync(kAllLanes, inside && key >= search.found[s]);
      __syncwarp();  // all lanes have read what the first one writes
      if (threadIdx.x % 32 == 0) {
        // nobody else writes there; a GPU does not wait for atomics whose result nobody wants
        for (int s = 0; s < kSelections; ++s) atomicOr(reinterpret_cast<uint32_t*>(masks[s]) + piece.place, selected[s]);
        if (keep_bodies) reinterpret_cast<uint32_t*>(body)[piece.place] = selected[kBody];
      }
      if (selected[kBody] >> threadIdx.x % 32 & 1)
        for (int64_t f = task.first_field; f < task.first_field + task.field_count; ++f)
          fields[f * volume.voxels() + piece.index] = 0;
    });
  }

  if (task.next_tumour >= 0) {
    const Available left{words + task.next_mask * volume.words(), masks[kBody]};
    write_box(left, volume, scratch, boxes + 6 * task.next_tumour);
  }
}
