// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace rsuper {

// Memory for gradients, masks and scratch: it is written once a step and freed within it or after it, and the pages of
// fresh memory cost several times more than writing to them. What is released is kept for the next request of about its
// size. All of it starts with a cache line at least.
void* acquire(std::int64_t bytes);
void release(void* memory);

// Gives what is kept back to the system.
void give_back();

// Smaller blocks come from the heap, which recycles them by itself.
constexpr std::size_t kSmallestRecycled = 1 << 16;

template <typename T>
struct RecycledAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  RecycledAllocator() = default;
  template <typename U>
  RecycledAllocator(const RecycledAllocator<U>&) {}
  T* allocate(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    return static_cast<T*>(bytes < kSmallestRecycled ? ::operator new(bytes, kLine) : acquire(bytes));
  }
  void deallocate(T* data, std::size_t count) {
    if (count * sizeof(T) < kSmallestRecycled) {
      ::operator delete(data, kLine);
    } else {
      release(data);
    }
  }
  bool operator==(const RecycledAllocator&) const { return true; }
  bool operator!=(const RecycledAllocator&) const { return false; }
};

template <typename T>
using Scratch = std::vector<T, RecycledAllocator<T>>;

}  // namespace rsuper
