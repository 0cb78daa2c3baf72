// SPDX-License-Identifier: Apache-2.0
// Probabilities on the available voxels of a volume, 0 elsewhere, computed row by row where they are asked for: a volume
// of them would cost more memory than anything else here. Sums over blocks of 2 and 4 voxels a side are kept.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "rsuper/bit_rows.h"
#include "rsuper/chunks.h"
#include "rsuper/recycled.h"

namespace rsuper {

constexpr Word kPieceMask = (Word{1} << kLanes) - 1;  // of the voxels that are read at once

struct Grid {
  std::int64_t d, h, w;
  std::int64_t voxels() const { return d * h * w; }
  std::int64_t rows() const { return d * h; }
};

// From the first place along each axis to one past the last.
struct Box {
  std::int64_t z0, y0, x0, z1, y1, x1;
  std::int64_t depth() const { return z1 - z0; }
  std::int64_t height() const { return y1 - y0; }
  std::int64_t width() const { return x1 - x0; }
  bool empty() const { return z1 <= z0 || y1 <= y0 || x1 <= x0; }
};

inline Box intersection(const Box& a, const Box& b) {
  return {std::max(a.z0, b.z0), std::max(a.y0, b.y0), std::max(a.x0, b.x0),
          std::min(a.z1, b.z1), std::min(a.y1, b.y1), std::min(a.x1, b.x1)};
}

// The smallest box of blocks, `size` voxels a side, that covers a box of voxels.
inline Box blocks_over(const Box& box, std::int64_t size) {
  const auto up = [size](std::int64_t end) { return (end + size - 1) / size; };
  return {box.z0 / size, box.y0 / size, box.x0 / size, up(box.z1), up(box.y1), up(box.x1)};
}

// Rows of values that are not negative; 0 outside the extent.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual const Box& extent() const = 0;
  // The values from x on, both numbers multiples of kLanes, x perhaps outside the extent. Returns whether any can be
  // other than 0; if not, nothing is written.
  virtual bool read(std::int64_t z, std::int64_t y, std::int64_t x, std::int64_t count, float* out) const = 0;
};

class MaskedField final : public RowSource {
 public:
  // `available`: the bits of the volume. The caller may clear some and then says how many, and in which box.
  MaskedField(const Array& values, bool sigmoid, const Grid& grid, const Word* available);

  const Grid& grid() const { return grid_; }
  const Box& extent() const override { return extent_; }  // the bounding box of the available voxels
  std::int64_t available() const { return available_; }   // their number
  const Word* bits(std::int64_t z, std::int64_t y) const { return words_ + (z * grid_.h + y) * row_words_; }
  std::int64_t index(std::int64_t z, std::int64_t y, std::int64_t x) const { return (z * grid_.h + y) * grid_.w + x; }

  bool read(std::int64_t z, std::int64_t y, std::int64_t x, std::int64_t count, float* out) const override;
  void cleared(std::int64_t count, const Box& box);

 private:
  void survey();

  const Array values_;
  const bool sigmoid_;
  const Grid grid_;
  const Word* words_;
  const std::int64_t row_words_;
  Box extent_;
  std::int64_t available_ = 0;
};

// A dense mask as bits.
Scratch<Word> packed(const std::uint8_t* mask, const Grid& grid);

// Sums over blocks; places are those of blocks.
class BlockSums final : public RowSource {
 public:
  // Without values: the pyramid writes them.
  explicit BlockSums(const Box& blocks)
      : extent_(blocks), sums_(static_cast<float*>(acquire(size() * sizeof(float))), release) {}

  const Box& extent() const override { return extent_; }
  bool read(std::int64_t z, std::int64_t y, std::int64_t x, std::int64_t count, float* out) const override;
  float* row(std::int64_t z, std::int64_t y) {
    return sums_.get() + ((z - extent_.z0) * extent_.height() + y - extent_.y0) * extent_.width();
  }
  const float* row(std::int64_t z, std::int64_t y) const { return const_cast<BlockSums*>(this)->row(z, y); }
  bool zero() const {
    return std::all_of(sums_.get(), sums_.get() + size(), [](float sum) { return sum == 0; });
  }

 private:
  std::int64_t size() const { return extent_.depth() * extent_.height() * extent_.width(); }

  Box extent_;
  std::unique_ptr<float[], void (*)(void*)> sums_;
};

struct Pyramid {
  BlockSums half, quarter;

  Pyramid(const MaskedField& field, int threads);
  // Sums anew the blocks that a box of voxels touches.
  void update(const MaskedField& field, const Box& box, int threads);
};

}  // namespace rsuper
