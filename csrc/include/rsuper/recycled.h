// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rsuper {

// Memory for gradients and masks: they are written once a step and freed after it, and the pages of fresh memory cost
// several times more than writing to them. What is released is kept for the next request of its size.
void* acquire(std::int64_t bytes);
void release(void* memory);

// Gives what is kept back to the system.
void give_back();

}  // namespace rsuper
