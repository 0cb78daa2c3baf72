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

inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  // moves the exponent from half's bias to float's; this also makes subnormals right, while inf and nan need 2^128 more
  const float value = bit_cast<float>(rest) * bit_cast<float>(0x77800000u);
  const std::uint32_t special = rest >= 0x0f800000u ? 0x7f800000u | rest : bit_cast<std::uint32_t>(value);
  return bit_cast<float>(special | sign);
}

inline std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (rest >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more: inf
  if (rest < 0x38800000u) {
    // below the normal halves: adding 0.5 leaves the rounded subnormal in the low bits
    const float shifted = bit_cast<float>(rest) + 0.5f;
    return static_cast<std::uint16_t>(sign | (bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  rest += 0xc8000fffu + (rest >> 13 & 1u);  // rebias and round half to even
  return static_cast<std::uint16_t>(sign | rest >> 13);
}

inline std::uint16_t float_to_bfloat(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

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
