# SPDX-License-Identifier: Apache-2.0
"""What Triton kernels over the voxels of planes share: tiles of bit masks, the logistic function, sums over a plane.

A tile is TILE words of 32 voxels, one after another through the rows of a plane. One program takes one tile of one
plane, which leaves partial sums in float32; the last program of a plane adds them up in float64, in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.bits import words_per_row
from rsuper_kernels.tables import groups_of_planes

# Voxels to a word: with words of 32 bits, no instruction takes two.
LANES = tl.constexpr(32)
# Words of a tile, which take 4 warps some steps of PART words: what a program does once weighs little, and what it does
# in a step leaves registers for other programs.
TILE_WORDS = 128
PART_WORDS = 32
# Rows of any width; rows that vectors of voxels divide; rows that words of 64 voxels divide, which leave no gaps.
ODD, ALIGNED, DENSE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# Voxels outside a mask count as logits of this size, whose logistic function is exactly 0.
OUTSIDE = tl.constexpr(-1e4)
# Partial sums of a plane that are added up at a time.
PARTIALS = tl.constexpr(64)
# Integers among the arguments of kernels whose values make no variants to compile; what matters of them, ROWS says.
PLAIN = ["channels", "count", "mask_words", "output", "row_words", "spans", "starts", "voxels", "width", "words"]
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
            "PART": PART_WORDS,
            "VECTOR": self.vector,
            "ROWS": DENSE.value if self.width % 64 == 0 else ALIGNED.value if self.width % 16 == 0 else ODD.value,
        }


def halves(words: torch.Tensor) -> torch.Tensor:
    """Words of bit masks as words of 32 voxels; the lower half comes first."""
    return words.contiguous().view(torch.int32)


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy of a dtype that kernels read; bools are 0 and 1 as they lie in memory."""
    if tensor.dtype == torch.bool:
        return tensor.contiguous().view(torch.uint8)
    return tensor.to(_READ_AS.get(tensor.dtype, tensor.dtype)).contiguous()


# Voxels of a program where masks are not bits.
BLOCK = 1024


def _blocks(logits: torch.Tensor) -> tuple[int, dict[str, Any]]:
    """Blocks of a plane of logits (B, C, D, H, W), and what kernels call the sizes of a plane and of a block."""
    voxels = logits.shape[2:].numel()
    return -(-voxels // BLOCK), {"voxels": voxels, "BLOCK": BLOCK, "ROWS": (ODD if voxels % 16 else ALIGNED).value}


def launch_sums(
    kernel: Any, logits: torch.Tensor, of_group: Sequence[int], outputs: int, arguments: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (G, outputs) of groups over the blocks of their planes, in float32 and in float64; zeros without voxels."""
    (blocks, sizes), planes = _blocks(logits), sorted(set(of_group))
    if blocks == 0 or not planes:
        zeros = logits.new_zeros(len(of_group), outputs, dtype=torch.float64)
        return zeros.float(), zeros
    sums = logits.new_empty(len(of_group), outputs, dtype=torch.float32)
    state = logits.new_empty(len(of_group), outputs, dtype=torch.float64)
    gpu.launch_triton(
        kernel,
        (blocks, len(planes)),
        logits=logits,
        partials=logits.new_empty(len(of_group), outputs, blocks, dtype=torch.float32),
        sums=sums,
        state=state,
        counters=gpu.counters(logits.device),
        table=gpu.table(groups_of_planes(of_group, planes), torch.int32, logits.device),
        **arguments,
        **sizes,
    )
    return sums, state


def launch_slopes(
    kernel: Any, grad: torch.Tensor, logits: torch.Tensor, of_group: Sequence[int], arguments: Mapping[str, Any]
) -> torch.Tensor:
    """The gradient of logits, every plane of it, from that of the groups' sums."""
    (blocks, sizes), planes = _blocks(logits), range(logits.shape[0] * logits.shape[1])
    out = torch.empty_like(logits)
    gpu.launch_triton(
        kernel,
        (blocks, len(planes)),
        grad=grad.float().contiguous(),
        logits=logits,
        out=out,
        table=gpu.table(groups_of_planes(of_group, planes), torch.int32, logits.device),
        **arguments,
        **sizes,
    )
    return out


# tiles


@triton.jit
def words_at(first, sizes, COUNT: tl.constexpr, ROWS: tl.constexpr):
    """Of COUNT words of a plane from `first` on: index in a mask, row, place in the row, and whether they exist."""
    words, row_words, _ = sizes
    word = first + tl.arange(0, COUNT)
    exists = word < words
    if ROWS == DENSE:
        # rows without gaps are one row
        return word, tl.zeros_like(word), word, exists
    row = word // row_words
    place = word - row * row_words
    return row * ((row_words + 1) // 2 * 2) + place, row, place, exists


@triton.jit
def voxels_of(row, place, exists, sizes, ROWS: tl.constexpr):
    """Offsets (words, LANES) of the voxels of some words within a plane, and which of them exist."""
    lane = tl.arange(0, LANES)[None, :]
    if ROWS == DENSE:
        return place.to(tl.int64)[:, None] * LANES + lane, exists[:, None] & (lane >= 0)
    # said in a way that the compiler sees: whole vectors are inside or outside
    width = sizes[2] // 16 * 16 if ROWS == ALIGNED else sizes[2]
    x = place[:, None] * LANES + lane
    return row.to(tl.int64)[:, None] * width + x, exists[:, None] & (x < width)


@triton.jit
def plane_start(plane, voxels, ROWS: tl.constexpr):
    """Index of the first voxel of a plane."""
    return plane.to(tl.int64) * (voxels if ROWS == ODD else voxels // 16 * 16)


@triton.jit
def block_of(block, voxels, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of a block's voxels within a plane, and which of them exist."""
    offsets = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offsets, offsets < (voxels // 16 * 16 if ROWS == ALIGNED else voxels)


@triton.jit
def load_block(numbers, plane, voxels, offsets, inside, ROWS: tl.constexpr):
    """Numbers of any type of a block of one plane, as float32."""
    return tl.load(numbers + plane_start(plane, voxels, ROWS) + offsets, mask=inside, other=0).to(tl.float32)


@triton.jit
def load_words(mask, first, sizes, COUNT: tl.constexpr, ROWS: tl.constexpr):
    """COUNT words of a mask, those of a plane from `first` on."""
    index, _, _, exists = words_at(first, sizes, COUNT, ROWS)
    return tl.load(mask + index, mask=exists, other=0)


@triton.jit
def load_voxels(plane, words, first, sizes, ROWS: tl.constexpr):
    """Float32 numbers (words, LANES) of a plane; those of words without a bit are not read."""
    _, row, place, exists = words_at(first, sizes, words.shape[0], ROWS)
    offsets, inside = voxels_of(row, place, exists, sizes, ROWS)
    return tl.load(plane + offsets, mask=inside & (words != 0)[:, None], other=0).to(tl.float32)


@triton.jit
def bits_of(words, VECTOR: tl.constexpr):
    """Whether each voxel of some words is inside, (words, LANES)."""
    lane = tl.arange(0, LANES)[None, :]
    # of the lanes of a thread, the second part is the same in all threads, so that it takes no register
    return ((words[:, None] >> (lane & -VECTOR)) & (1 << (lane & (VECTOR - 1)))) != 0


@triton.jit
def count_bits(words):
    """Voxels inside each of some words."""
    pairs = words - ((words >> 1) & 0x55555555)
    nibbles = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    octets = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F
    sums = octets + (octets >> 8)
    return (sums + (sums >> 16)) & 63


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
def _folded(values, VECTOR: tl.constexpr, LOGS: tl.constexpr):
    """Values (words, LANES) added up, or `_joined` if LOGS, over what a thread holds: VECTOR lanes of some words."""
    for _ in tl.static_range(2 + VECTOR // 8):
        a, b = tl.split(tl.reshape(values, (values.shape[0], values.shape[1] // 2, 2)))
        values = _joined(a, b) if LOGS else a + b
    for _ in tl.static_range(4):
        if values.shape[0] > 4 * VECTOR:
            pairs = tl.reshape(values, (2, values.shape[0] // 2, values.shape[1]))
            a, b = tl.split(tl.permute(pairs, (1, 2, 0)))
            values = _joined(a, b) if LOGS else a + b
    return values


@triton.jit
def thread_zeros(COUNT: tl.constexpr, VECTOR: tl.constexpr):
    """A zero for each thread, where threads take COUNT words at a time."""
    ROWS: tl.constexpr = COUNT if COUNT < 4 * VECTOR else 4 * VECTOR
    return tl.zeros((ROWS, LANES // VECTOR), tl.float32)


@triton.jit
def thread_sums(sums, values, VECTOR: tl.constexpr):
    """Sums of each thread and the values (words, LANES) that it holds: threads exchange sums once, at the end."""
    return sums + _folded(values, VECTOR, False)


@triton.jit
def thread_products(products, t, VECTOR: tl.constexpr):
    """Products of 1 + t, 0 <= t <= 1, less 1, of each thread: one logarithm at the end is the sum of many."""
    return _joined(products, _folded(t, VECTOR, True))


# sums over a plane


@triton.jit
def is_last(counter, programs):
    """Whether this is the last of so many programs to get here; it sees what all of them stored before."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="release") == programs - 1
    if last:
        # zero again, for the next kernel
        tl.atomic_add(counter, -programs, sem="acquire")
        tl.debug_barrier()
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
