// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rsuper/device.h"

namespace rsuper {

template <typename To, typename From>
RSUPER_HOST_DEVICE inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace rsuper
