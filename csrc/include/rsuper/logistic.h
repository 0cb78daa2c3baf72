// SPDX-License-Identifier: Apache-2.0
// exp, sigmoid and log(1 + exp) in float, branch-free so that compilers make vectors of the loops around them.
// Relative errors are a few roundings of float down to exp(-87); tests/ops/test_backends.py holds their sums to 2e-6.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "rsuper/multiversion.h"

namespace rsuper {

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// exp(-|x|): 1 at 0, and 0 from |x| = 87.3 on, where float ends.
inline float exp_minus_abs(float x) {
  const float y = -std::fabs(x);
  const float clamped = y < -87.3f ? -87.3f : y;
  constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = clamped * 1.44269504f + to_integer;
  const float n = shifted - to_integer;
  float r = clamped - n * 0.693359375f;  // ln 2 in two parts, the first with few bits, so that n * it is exact
  r += n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t exponent = (bit_cast<std::int32_t>(shifted) - bit_cast<std::int32_t>(to_integer) + 127) << 23;
  const float value = p * bit_cast<float>(exponent);
  return y < -87.3f ? 0.0f : value;
}

// log(1 + t) for 0 <= t <= 1, given s = t / (2 + t), as 2 artanh(s): exact in relative terms also for tiny t.
inline float log1p_from_ratio(float s) {
  const float s2 = s * s;
  float p = 1.0f / 13.0f;
  p = p * s2 + 1.0f / 11.0f;
  p = p * s2 + 1.0f / 9.0f;
  p = p * s2 + 1.0f / 7.0f;
  p = p * s2 + 1.0f / 5.0f;
  p = p * s2 + 1.0f / 3.0f;
  p = p * s2 + 1.0f;
  return 2.0f * s * p;
}

struct Logistic {
  float probability;   // sigmoid(x)
  float complement;    // 1 - sigmoid(x), without cancellation
  float minus_log_p;   // log(1 + exp(-x))
  float minus_log_1p;  // log(1 + exp(x))
};

inline float sigmoid(float x) {
  const float t = exp_minus_abs(x);
  return (x >= 0 ? 1.0f : t) / (1.0f + t);
}

inline Logistic logistic(float x) {
  const float t = exp_minus_abs(x);
  // one division serves both 1 / (1 + t) and t / (2 + t)
  const float shared = 1.0f / ((1.0f + t) * (2.0f + t));
  const float large = (2.0f + t) * shared, small = t * large;
  const float log_term = log1p_from_ratio(t * (1.0f + t) * shared);
  const bool positive = x >= 0;
  return {positive ? large : small, positive ? small : large, (positive ? 0.0f : -x) + log_term,
          (positive ? x : 0.0f) + log_term};
}

}  // namespace rsuper
