// SPDX-License-Identifier: Apache-2.0
#include "rsuper/chunks.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace rsuper {
namespace {

RSUPER_MULTIVERSION void widen_half(const std::uint16_t* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = half_to_float(in[i]);
}

RSUPER_MULTIVERSION void widen_bfloat(const std::uint16_t* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = bfloat_to_float(in[i]);
}

RSUPER_MULTIVERSION void widen_bytes(const std::uint8_t* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = in[i];
}

template <typename T>
void widen(const T* in, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]);
}

RSUPER_MULTIVERSION void narrow_half(const float* in, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = float_to_half(in[i]);
}

RSUPER_MULTIVERSION void narrow_bfloat(const float* in, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = float_to_bfloat(in[i]);
}

}  // namespace

const float* load(const Array& array, std::int64_t count, float* buffer) {
  switch (array.type) {
    case Type::f32: return array.as<float>();
    case Type::f16: widen_half(array.as<std::uint16_t>(), count, buffer); break;
    case Type::bf16: widen_bfloat(array.as<std::uint16_t>(), count, buffer); break;
    case Type::u8: widen_bytes(array.as<std::uint8_t>(), count, buffer); break;
    case Type::i16: widen(array.as<std::int16_t>(), count, buffer); break;
    case Type::i32: widen(array.as<std::int32_t>(), count, buffer); break;
    case Type::i64: widen(array.as<std::int64_t>(), count, buffer); break;
    case Type::bits: break;  // not numbers: masks.h reads them
  }
  return buffer;
}

void store(const float* values, std::int64_t count, Type type, void* out) {
  switch (type) {
    case Type::f16: narrow_half(values, count, static_cast<std::uint16_t*>(out)); break;
    case Type::bf16: narrow_bfloat(values, count, static_cast<std::uint16_t*>(out)); break;
    default: std::memcpy(out, values, count * sizeof(float));
  }
}

RSUPER_MULTIVERSION static bool zero_bytes(const unsigned char* bytes, std::int64_t size) {
  constexpr int kWords = 64;
  std::int64_t i = 0;
  for (; i + 8 * kWords <= size; i += 8 * kWords) {
    std::uint64_t words[kWords], any = 0;
    std::memcpy(words, bytes + i, sizeof words);
    for (int w = 0; w < kWords; ++w) any |= words[w];
    if (any != 0) return false;
  }
  for (; i < size; ++i)
    if (bytes[i] != 0) return false;
  return true;
}

bool all_zero(const Array& array, std::int64_t count) {
  return zero_bytes(array.as<unsigned char>(), count * size_of(array.type));
}

void prefer_large_pages(void* data, std::int64_t bytes) {
#ifdef __linux__
  constexpr std::uintptr_t kPage = 1 << 21;
  const auto start = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace rsuper
