# SPDX-License-Identifier: Apache-2.0
"""What Triton kernels over the voxels of planes share: tiles of bit masks, the logistic function, sums over a plane.

A tile is TILE words of 32 voxels, one after another through the rows of a plane. One program takes one tile of one
plane, which leaves partial sums in float32; the last program of a plane adds them up in float64, in their order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels.bits import words_per_row

# Voxels to a word: with words of 32 bits, no instruction takes two.
LANES = tl.constexpr(32)
# 32 voxels for each of 128 threads: what a program does once weighs little, and the registers suffice.
TILE_WORDS = 128
# Voxels outside a mask count as logits of this size, whose logistic function is exactly 0.
OUTSIDE = tl.constexpr(-1e4)
# Partial sums of a plane that are added up at a time.
PARTIALS = tl.constexpr(256)
# Kernels take float64 as float32, which is what they compute in; unsigned numbers need wider ones.
_READ_AS = {
    torch.float64: torch.float32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


class Tiles:
    """How planes of logits (B, C, D, H, W) are cut into tiles."""

    def __init__(self, logits: torch.Tensor) -> None:
        depth, height, width = logits.shape[2:]
        self.planes = logits.shape[0] * logits.shape[1]
        self.voxels = depth * height * width
        self.width = width
        self.row_words = -(-width // LANES.value)
        self.words = depth * height * self.row_words
        self.mask_words = depth * height * words_per_row(width) * 2
        self.count = -(-self.words // TILE_WORDS)
        self.vector = 16 // logits.element_size()

    def arguments(self) -> dict[str, Any]:
        """What kernels call the sizes of a plane and of a tile."""
        return {
            "words": self.words,
            "row_words": self.row_words,
            "mask_words": self.mask_words,
            "voxels": self.voxels,
            "width": self.width,
            "TILE": TILE_WORDS,
            "VECTOR": self.vector,
            "ALIGNED": self.width % 16 == 0,
            "DENSE": self.width % 64 == 0,
        }


def halves(words: torch.Tensor) -> torch.Tensor:
    """Words of bit masks as words of 32 voxels; the lower half comes first."""
    return words.contiguous().view(torch.int32)


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy of a dtype that kernels read; bools are 0 and 1 as they lie in memory."""
    if tensor.dtype == torch.bool:
        return tensor.contiguous().view(torch.uint8)
    return tensor.to(_READ_AS.get(tensor.dtype, tensor.dtype)).contiguous()


# tiles


@triton.jit
def tile_words(tile, words, row_words, TILE: tl.constexpr, DENSE: tl.constexpr):
    """Of each word of a tile: its index in a mask, its row, its place in the row, and whether it exists."""
    word = tile * TILE + tl.arange(0, TILE)
    exists = word < words
    if DENSE:
        # rows without gaps are one row
        return word, tl.zeros_like(word), word, exists
    row = word // row_words
    place = word - row * row_words
    return row * ((row_words + 1) // 2 * 2) + place, row, place, exists


@triton.jit
def tile_voxels(row, place, exists, width, ALIGNED: tl.constexpr, DENSE: tl.constexpr):
    """Offsets (TILE, LANES) of a tile's voxels within a plane, and which of them exist."""
    lane = tl.arange(0, LANES)[None, :]
    if DENSE:
        return place.to(tl.int64)[:, None] * LANES + lane, exists[:, None] & (lane >= 0)
    # said in a way that the compiler sees: whole vectors are inside or outside
    end = width // 16 * 16 if ALIGNED else width
    x = place[:, None] * LANES + lane
    return row.to(tl.int64)[:, None] * end + x, exists[:, None] & (x < end)


@triton.jit
def plane_start(plane, voxels, ALIGNED: tl.constexpr):
    """Index of the first voxel of a plane."""
    return plane.to(tl.int64) * (voxels // 16 * 16 if ALIGNED else voxels)


@triton.jit
def load_words(mask, row, mask_words, index, exists):
    """Words of a tile, of one row of bit masks."""
    return tl.load(mask + row.to(tl.int64) * mask_words + index, mask=exists, other=0)


@triton.jit
def bits_of(words):
    """Whether each voxel of some words is inside, (TILE, LANES)."""
    one = tl.full((1, LANES), 1, tl.int32)
    return (words[:, None] & (one << tl.arange(0, LANES)[None, :])) != 0


@triton.jit
def count_bits(words):
    """Voxels inside each of some words."""
    pairs = words - ((words >> 1) & 0x55555555)
    nibbles = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    octets = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F
    sums = octets + (octets >> 8)
    return (sums + (sums >> 16)) & 63


@triton.jit
def load_voxels(plane, offsets, inside, words):
    """Float32 numbers of a tile; words without a voxel inside are not read."""
    return tl.load(plane + offsets, mask=inside & (words != 0)[:, None], other=0).to(tl.float32)


# the logistic function; FINE: to the digits of float32, and not only to a few units in its sixth


@triton.jit
def exp_minus_abs(x, FINE: tl.constexpr):
    """exp(-|x|), 0 from |x| = 87.4 on; its relative error, 3e-7, grows with |x| to 2e-6 at 30 unless FINE."""
    size = tl.minimum(tl.abs(x), 125.0, propagate_nan=tl.PropagateNan.ALL)
    exponent = size * -1.4426950216293335
    power = tl.exp2(exponent)
    if FINE:
        # the rounding of the exponent
        rest = tl.fma(size, -1.4426950216293335, -exponent)
        power = tl.fma(power, rest * 0.6931471805599453, power)
    return power


@triton.jit
def inverse_of_one_plus(t, FINE: tl.constexpr):
    """1 / (1 + t) for 0 <= t <= 1. A division would take twice the instructions."""
    total = 1.0 + t
    root = tl.rsqrt(total)
    inverse = root * root
    if FINE:
        # a step of Newton's
        inverse = tl.fma(inverse, tl.fma(-total, inverse, 1.0), inverse)
    return inverse


@triton.jit
def logistic(x, FINE: tl.constexpr):
    """exp(-|x|), the logistic function p of x, and 1 - p without cancellation."""
    t = exp_minus_abs(x, FINE)
    large = inverse_of_one_plus(t, FINE)
    small = t * large
    above = x >= 0
    return t, tl.where(above, large, small), tl.where(above, small, large)


@triton.jit
def probability(x, SIGMOID: tl.constexpr, FINE: tl.constexpr):
    """The logistic function of logits; probabilities are what they are."""
    if SIGMOID:
        return logistic(x, FINE)[1]
    return x


@triton.jit
def probability_slope(x, SIGMOID: tl.constexpr, FINE: tl.constexpr):
    """Derivative of `probability`."""
    if not SIGMOID:
        return tl.full(x.shape, 1.0, tl.float32)
    t = exp_minus_abs(x, FINE)
    inverse = inverse_of_one_plus(t, FINE)
    return t * inverse * inverse


@triton.jit
def twice_artanh(s):
    """2 artanh(s) for |s| <= 1/3."""
    s2 = s * s
    p = tl.fma(s2, 0.07692307692307693, 0.09090909090909091)
    p = tl.fma(p, s2, 0.1111111111111111)
    p = tl.fma(p, s2, 0.14285714285714285)
    p = tl.fma(p, s2, 0.2)
    p = tl.fma(p, s2, 0.3333333333333333)
    return 2 * s * tl.fma(p, s2, 1.0)


@triton.jit
def log_of_one_plus(t):
    """log(1 + t) for t >= 0, exact in relative terms also for tiny t."""
    return tl.where(t <= 1, twice_artanh(t / (2 + t)), tl.log(1 + t))


@triton.jit
def _joined(a, b):
    """(1 + a) (1 + b) - 1, which keeps the digits of tiny a and b."""
    return tl.fma(a, b, a) + b


@triton.jit
def sum_of_logs(t, VECTOR: tl.constexpr):
    """Sum of log(1 + t) over a tile, 0 <= t <= 1: one logarithm of the product of 32 voxels, which a thread holds."""
    steps: tl.constexpr = 2 + VECTOR // 8
    for _ in tl.static_range(steps):
        a, b = tl.split(tl.reshape(t, (t.shape[0], t.shape[1] // 2, 2)))
        t = _joined(a, b)
    for _ in tl.static_range(5 - steps):
        a, b = tl.split(tl.permute(tl.reshape(t, (2, t.shape[0] // 2, t.shape[1])), (1, 2, 0)))
        t = _joined(a, b)
    return tl.sum(log_of_one_plus(t))


# sums over a plane


@triton.jit
def is_last(counter, programs):
    """Whether this is the last of so many programs to get here; it sees what all of them stored before."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="release") == programs - 1
    if last:
        # zero again, for the next kernel
        tl.atomic_add(counter, -programs, sem="acquire")
    return last


@triton.jit
def add_up(partials, tiles, sums, state, SIZE: tl.constexpr):
    """Sums of SIZE rows (up to 8) of partial sums (tiles,), in float32 and in float64."""
    row = tl.arange(0, 8)
    total = tl.zeros((8,), tl.float64)
    for start in range(0, tiles, PARTIALS):
        tile = start + tl.arange(0, PARTIALS)
        block = tl.load(
            partials + row.to(tl.int64)[:, None] * tiles + tile[None, :],
            mask=(row < SIZE)[:, None] & (tile < tiles)[None, :],
            other=0,
            cache_modifier=".cg",
        )
        total += tl.sum(block.to(tl.float64), axis=1)
    tl.store(sums + row, total.to(tl.float32), mask=row < SIZE)
    tl.store(state + row, total, mask=row < SIZE)
