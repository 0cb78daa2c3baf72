// SPDX-License-Identifier: Apache-2.0
#include "rsuper/recycled.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <new>

#include "rsuper/chunks.h"

namespace rsuper {
namespace {

constexpr std::int64_t kLargePage = 1 << 21;
constexpr std::align_val_t kAligned{4096}, kLargelyAligned{kLargePage};

// Up to the next thirty-second of a power of two, so that what is nearly of a size is of that size.
std::int64_t rounded(std::int64_t bytes) {
  std::int64_t step = 1;
  while (step * 64 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* from_system(std::int64_t bytes) {
  if (bytes < kLargePage) return ::operator new(static_cast<std::size_t>(bytes), kAligned);
  void* memory = ::operator new(static_cast<std::size_t>(bytes), kLargelyAligned);
  prefer_large_pages(memory, bytes);
  return memory;
}

void to_system(void* memory, std::int64_t bytes) {
  ::operator delete(memory, bytes < kLargePage ? kAligned : kLargelyAligned);
}


struct Block {
  void* memory;
  std::int64_t bytes;
};

// Kept and used memory together stay below what was in use at once and a quarter more: within a step, masks of the next
// one may be asked for while the gradients of the last one, which nobody uses just then, wait for the next backward.
class Pool {
 public:
  void* acquire(std::int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Block& block) { return block.bytes == bytes; });
    void* memory = nullptr;
    if (found != kept_.end()) {
      memory = found->memory;
      kept_bytes_ -= bytes;
      kept_.erase(found);
    } else {
      memory = from_system(bytes);
    }
    used_[memory] = bytes;
    used_bytes_ += bytes;
    most_bytes_ = std::max(most_bytes_, used_bytes_);
    drop_until(most_bytes_ + most_bytes_ / 4 - used_bytes_);
    return memory;
  }

  void release(void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(memory);
    kept_.push_back({memory, found->second});
    kept_bytes_ += found->second;
    used_bytes_ -= found->second;
    used_.erase(found);
  }

  void give_back() {
    const std::lock_guard<std::mutex> lock(mutex_);
    drop_until(0);
    most_bytes_ = used_bytes_;
  }

 private:
  // Oldest first.
  void drop_until(std::int64_t bytes) {
    while (kept_bytes_ > bytes) {
      kept_bytes_ -= kept_.front().bytes;
      to_system(kept_.front().memory, kept_.front().bytes);
      kept_.pop_front();
    }
  }

  std::mutex mutex_;
  std::map<void*, std::int64_t> used_;
  std::deque<Block> kept_;
  std::int64_t used_bytes_ = 0, kept_bytes_ = 0, most_bytes_ = 0;
};

// Never destroyed: tensors may outlive what runs at exit.
Pool& pool() {
  static Pool& pool = *new Pool;
  return pool;
}

}  // namespace

void* acquire(std::int64_t bytes) { return pool().acquire(rounded(bytes)); }
void release(void* memory) { pool().release(memory); }
void give_back() { pool().give_back(); }

}  // namespace rsuper
