// SPDX-License-Identifier: Apache-2.0
// Volumes are worked on in chunks of rows that stay in the first-level cache. Arrays of any element type are read as
// float, a chunk at a time; sums are taken in float within a chunk and in double over the chunks, in their order, so that
// results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "rsuper/bit_rows.h"
#include "rsuper/halves.h"
#include "rsuper/logistic.h"

namespace rsuper {

constexpr std::int64_t kChunk = 2048;  // voxels, at most
constexpr int kLanes = 16;

// The rows of a plane.
struct Volume {
  std::int64_t rows, width;
  std::int64_t voxels() const { return rows * width; }
};

// Some whole rows, or a part of one row that starts at a whole word of bits.
struct Chunk {
  std::int64_t row, rows, x, width;
  std::int64_t first;  // voxel of the plane
  std::int64_t size() const { return rows * width; }
};

class Chunks {
 public:
  explicit Chunks(const Volume& volume)
      : volume_(volume), rows_(std::max<std::int64_t>(kChunk / std::max<std::int64_t>(volume.width, 1), 1)),
        pieces_(std::max<std::int64_t>((volume.width + kChunk - 1) / kChunk, 1)) {}

  std::int64_t count() const { return volume_.width == 0 ? 0 : (volume_.rows + rows_ - 1) / rows_ * pieces_; }

  Chunk operator[](std::int64_t index) const {
    const std::int64_t row = index / pieces_ * rows_, x = index % pieces_ * kChunk;
    return {row, std::min(rows_, volume_.rows - row), x, std::min(kChunk, volume_.width - x), row * volume_.width + x};
  }

 private:
  Volume volume_;
  std::int64_t rows_, pieces_;
};

// The numbers are part of the interface with Python, see rsuper_kernels/native.py.
enum class Type : int { f32 = 0, f16 = 1, bf16 = 2, u8 = 3, i16 = 4, i32 = 5, i64 = 6, bits = 7 };

inline std::int64_t size_of(Type type) {
  switch (type) {
    case Type::u8: return 1;
    case Type::f16:
    case Type::bf16:
    case Type::i16: return 2;
    case Type::i64: return 8;
    default: return 4;
  }
}

// An array without an owner; data may be null for an array that is left out.
struct Array {
  const void* data = nullptr;
  Type type = Type::f32;

  Array from(std::int64_t index) const {
    return {static_cast<const char*>(data) + index * size_of(type), type};
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

// `count` elements as float: the array itself if it is float, else written to `buffer`.
const float* load(const Array& array, std::int64_t count, float* buffer);

// Writes `count` floats as elements of a floating-point `type`.
void store(const float* values, std::int64_t count, Type type, void* out);

// Whether `count` elements are all zero bits, looked at without converting them.
bool all_zero(const Array& array, std::int64_t count);

// Asks for large pages under memory that is about to be written whole, where the system has them: a fresh page costs more
// than the voxels on it. Changes nothing but speed.
void prefer_large_pages(void* data, std::int64_t bytes);

// A sum over the voxels of a chunk, one partial sum per lane.
struct LaneSum {
  float lanes[kLanes] = {};
  double total() const {
    double sum = 0;
    for (const float lane : lanes) sum += lane;
    return sum;
  }
};

}  // namespace rsuper
