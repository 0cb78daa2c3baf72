// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rsuper {

// Memory for gradients. A gradient is as large as the logits, is written once and freed after the optimiser's step; the
// pages of a fresh one cost several times more than writing to them. What is released is kept for the next request, and
// given back to the system as soon as a request comes that it does not fit.
void* acquire(std::int64_t bytes);
void release(void* memory);

// Gives what is kept back to the system.
void give_back();

}  // namespace rsuper
