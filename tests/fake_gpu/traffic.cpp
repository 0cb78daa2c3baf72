// SPDX-License-Identifier: Apache-2.0
// Which sectors a kernel touches. Kernels are compiled as if for ThreadSanitizer, which makes the compiler announce every
// access to memory; instead of that sanitizer, these functions listen.
#include <cstddef>
#include <cstdint>

namespace {

constexpr int kSectorBits = 5;  // 32 bytes, what a GPU's memory gives at least

struct Range {
  std::uintptr_t start;
  std::uint64_t size;
  std::uint8_t* loaded;  // a byte for each sector
  std::uint8_t* stored;
};
// plain, without constructor or destructor: what is made and destroyed before and after a run announces accesses, too
constexpr std::size_t kMost = 256;
Range ranges[kMost];
std::size_t watched = 0;
std::size_t last = 0;

inline Range* find(std::uintptr_t at) {
  if (last < watched && at - ranges[last].start < ranges[last].size) return &ranges[last];
  for (last = 0; last < watched; ++last) {
    if (at - ranges[last].start < ranges[last].size) return &ranges[last];
  }
  return nullptr;
}

inline void touch(void* address, std::size_t bytes, bool store) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  Range* range = find(at);
  if (range == nullptr) return;
  const auto first = (at - range->start) >> kSectorBits, end = (at - range->start + bytes - 1) >> kSectorBits;
  for (auto sector = first; sector <= end; ++sector) {
    if (store) {
      range->stored[sector] = 1;
    } else if (!range->stored[sector]) {
      range->loaded[sector] = 1;
    }
  }
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void traffic_clear() { watched = 0; }

__attribute__((visibility("default"))) void traffic_watch(std::uint64_t start, std::uint64_t size, std::uint8_t* loaded,
                                                         std::uint8_t* stored) {
  if (watched < kMost) ranges[watched++] = {start, size, loaded, stored};
}

#define RSUPER_SIZE(bytes)                                                         \
  void __tsan_read##bytes(void* at) { touch(at, bytes, false); }                   \
  void __tsan_write##bytes(void* at) { touch(at, bytes, true); }                   \
  void __tsan_unaligned_read##bytes(void* at) { touch(at, bytes, false); }         \
  void __tsan_unaligned_write##bytes(void* at) { touch(at, bytes, true); }         \
  void __tsan_volatile_read##bytes(void* at) { touch(at, bytes, false); }          \
  void __tsan_volatile_write##bytes(void* at) { touch(at, bytes, true); }
RSUPER_SIZE(1)
RSUPER_SIZE(2)
RSUPER_SIZE(4)
RSUPER_SIZE(8)
RSUPER_SIZE(16)

void __tsan_read_range(void* at, std::size_t bytes) {
  if (bytes) touch(at, bytes, false);
}
void __tsan_write_range(void* at, std::size_t bytes) {
  if (bytes) touch(at, bytes, true);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_init() {}
}
