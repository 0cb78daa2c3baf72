# SPDX-License-Identifier: Apache-2.0
"""Masks as bits: what the kernels hand to each other, an eighth of a bool mask and a thirty-second of a float mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rsuper_kernels.tables import take

WORD_BITS = 64


@dataclass(frozen=True)
class BitMasks:
    """Binary masks (N, D, H, W), 64 voxels of a row to a word.

    Args:
        words: int64 (N, D, H, ceil(W / 64)), contiguous. Voxel x of a row is bit x % 64 of word x // 64; bits beyond W
            are zero.
        width: W.
    """

    words: torch.Tensor
    width: int

    @classmethod
    def zeros(cls, count: int, volume: Sequence[int], device: torch.device) -> BitMasks:
        """Empty masks of a volume (D, H, W)."""
        depth, height, width = volume
        return cls(torch.zeros(count, depth, height, words_per_row(width), dtype=torch.int64, device=device), width)

    @classmethod
    def full(cls, count: int, volume: Sequence[int], device: torch.device) -> BitMasks:
        """Masks that hold every voxel of a volume (D, H, W)."""
        depth, height, width = volume
        shape = (count, depth, height, words_per_row(width))
        words = torch.full(shape, -1, dtype=torch.int64, device=device)
        return cls(_without_unused(words, width), width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, D, H, W)"""
        count, depth, height, _ = self.words.shape
        return count, depth, height, self.width

    def __len__(self) -> int:
        return self.words.shape[0]

    def __getitem__(self, rows: slice | Sequence[int]) -> BitMasks:
        if isinstance(rows, slice):
            return BitMasks(self.words[rows].contiguous(), self.width)
        return BitMasks(take(self.words, rows), self.width)

    def __and__(self, other: BitMasks) -> BitMasks:
        return BitMasks(self.words & other.words, self.width)

    def __or__(self, other: BitMasks) -> BitMasks:
        return BitMasks(self.words | other.words, self.width)

    def __ior__(self, other: BitMasks) -> BitMasks:
        """In place, in this object's words."""
        self.words.bitwise_or_(other.words)
        return self

    def minus(self, other: BitMasks) -> BitMasks:
        """The voxels that are not in `other`."""
        return BitMasks((~other.words).bitwise_and_(self.words), self.width)

    def complement(self) -> BitMasks:
        """The voxels that each mask leaves out."""
        return BitMasks(_without_unused(~self.words, self.width), self.width)

    def union(self) -> BitMasks:
        """All masks in one, (1, D, H, W)."""
        union = self.words.new_zeros(1, *self.words.shape[1:])
        for words in self.words:
            union |= words
        return BitMasks(union, self.width)

    def unpack(self) -> torch.Tensor:
        """Bool (N, D, H, W)."""
        return unpack(self.words, self.width)

    def any(self) -> torch.Tensor:
        """Which masks hold a voxel, bool (N,)."""
        return (self.words != 0).flatten(1).any(1)


def _without_unused(words: torch.Tensor, width: int) -> torch.Tensor:
    """The words with zeros beyond the width, in place."""
    unused = -width % WORD_BITS
    if unused:
        words[..., -1] &= (1 << (WORD_BITS - unused)) - 1
    return words


def words_per_row(width: int) -> int:
    """Words that a row of `width` voxels takes."""
    return -(-width // WORD_BITS)


def pack(inside: torch.Tensor) -> torch.Tensor:
    """Words (..., ceil(W / 64)) of bool voxels (..., W), in plain torch; ops/pack_bits is faster."""
    bits = F.pad(inside, (0, -inside.shape[-1] % WORD_BITS)).unflatten(-1, (-1, 8, 8)).to(torch.uint8)
    # bits, and bytes, are apart, so their sum is their union
    bytes_ = (bits << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(-1, dtype=torch.uint8)
    return (bytes_.long() << torch.arange(0, WORD_BITS, 8, device=bits.device)).sum(-1)


def unpack(words: torch.Tensor, width: int) -> torch.Tensor:
    """Bool voxels (..., W) of words (..., ceil(W / 64)), in plain torch."""
    bytes_ = (words[..., None] >> torch.arange(0, WORD_BITS, 8, device=words.device) & 255).to(torch.uint8)
    bits = bytes_[..., None] >> torch.arange(8, dtype=torch.uint8, device=words.device) & 1
    return bits.bool().flatten(-3)[..., :width]
