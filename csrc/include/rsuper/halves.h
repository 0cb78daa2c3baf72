// SPDX-License-Identifier: Apache-2.0
// 16-bit floats by their bits, without a type for them.
#pragma once

#include "rsuper/bit_cast.h"

namespace rsuper {

RSUPER_HOST_DEVICE inline float bfloat_to_float(std::uint16_t bfloat) {
  return bit_cast<float>(static_cast<std::uint32_t>(bfloat) << 16);
}

RSUPER_HOST_DEVICE inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  // from half's bias of the exponent to float's; inf and nan have float's largest exponent
  const std::uint32_t normal = rest + (rest >= 0x0f800000u ? 0x70000000u : 0x38000000u);
  // as what is above 2^-14, the smallest normal half: GPUs may take subnormal floats for 0
  const std::uint32_t subnormal = bit_cast<std::uint32_t>(bit_cast<float>(rest + 0x38800000u) - 0x1p-14f);
  return bit_cast<float>((rest < 0x00800000u ? subnormal : normal) | sign);
}

RSUPER_HOST_DEVICE inline std::uint16_t float_to_half(float value) {
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

RSUPER_HOST_DEVICE inline std::uint16_t float_to_bfloat(float value) {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace rsuper
