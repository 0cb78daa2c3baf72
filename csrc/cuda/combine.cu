// SPDX-License-Identifier: Apache-2.0
// Unions, intersections and differences of masks, all in one launch: a thread takes one word of the volume through the steps
// of all outputs, so that outputs may use those before them.
#include "rsuper/words.h"

namespace {

using rsuper::Word;

// As ops/combine/cuda.py packs a step: row, source and operation in 48, 8 and 8 bits. Sources 0 to 5 are stacks.
enum Operation { kOr, kAnd, kMinus };
enum Source { kOutputs = 6, kEverything };

}  // namespace

// Six stacks [masks of the stack, words], any where there are fewer; out [outputs, words]; ends [outputs]: where in `steps`
// those of an output end.
extern "C" __global__ void __launch_bounds__(256)
    combine(const uint64_t* stack0, const uint64_t* stack1, const uint64_t* stack2, const uint64_t* stack3,
            const uint64_t* stack4, const uint64_t* stack5, uint64_t* out, const int64_t* steps, const int64_t* ends,
            int64_t outputs, int64_t words, int64_t width) {
  // an array of pointers would go to slow memory
  const auto masks_of = [=](int source) -> const Word* {
    switch (source) {
      case 0: return stack0;
      case 1: return stack1;
      case 2: return stack2;
      case 3: return stack3;
      case 4: return stack4;
      case 5: return stack5;
      default: return out;
    }
  };
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= words) return;
  const int64_t row_words = rsuper::words_per_row(width);
  const Word everything = i % row_words == row_words - 1 ? rsuper::last_word_mask(width) : ~Word{0};
  int64_t s = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    Word word = 0;
    for (; s < ends[o]; ++s) {
      const int64_t step = steps[s];
      const int source = static_cast<int>(step >> 8 & 0xff);
      const Word other = source == kEverything ? everything : masks_of(source)[(step >> 16) * words + i];
      switch (static_cast<int>(step & 0xff)) {
        case kOr: word |= other; break;
        case kAnd: word &= other; break;
        default: word &= ~other;
      }
    }
    out[o * words + i] = word;
  }
}
