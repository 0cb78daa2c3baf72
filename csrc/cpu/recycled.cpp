// SPDX-License-Identifier: Apache-2.0
#include "rsuper/recycled.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "rsuper/chunks.h"

namespace rsuper {
namespace {

constexpr std::align_val_t kPage{1 << 21};

struct Kept {
  void* memory;
  std::int64_t bytes;
};

struct Pool {
  std::mutex mutex;
  std::map<void*, std::int64_t> in_use;
  std::vector<Kept> kept;
};

// Never destroyed: tensors may outlive what runs at exit.
Pool& pool() {
  static Pool& pool = *new Pool;
  return pool;
}

void free_all(std::vector<Kept>& kept) {
  for (const Kept& block : kept) ::operator delete(block.memory, kPage);
  kept.clear();
}

}  // namespace

void* acquire(std::int64_t bytes) {
  Pool& all = pool();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto fits = [bytes](const Kept& block) { return block.bytes == bytes; };
  const auto found = std::find_if(all.kept.begin(), all.kept.end(), fits);
  void* memory = nullptr;
  if (found != all.kept.end()) {
    memory = found->memory;
    all.kept.erase(found);
  } else {
    free_all(all.kept);
    memory = ::operator new(static_cast<std::size_t>(bytes), kPage);
    prefer_large_pages(memory, bytes);
  }
  all.in_use[memory] = bytes;
  return memory;
}

void release(void* memory) {
  Pool& all = pool();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.in_use.find(memory);
  all.kept.push_back({memory, found->second});
  all.in_use.erase(found);
}

void give_back() {
  Pool& all = pool();
  const std::lock_guard<std::mutex> lock(all.mutex);
  free_all(all.kept);
}

}  // namespace rsuper
