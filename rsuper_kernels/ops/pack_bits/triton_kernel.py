# SPDX-License-Identifier: Apache-2.0
"""Packing and unpacking on a GPU. A program takes a block of half words, 32 voxels of a row each.

Voxels are compared as the integers of their bits, so that a dtype is no more than a size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.bits import words_per_row
from rsuper_kernels.tables import split

HALF_WORDS = 64
"""Half words of a program."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pack_masks(masks: torch.Tensor, planes: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)) of unions of masks; see reference.py."""
    masks = masks != 0 if masks.is_complex() else masks
    values = _integers(masks)
    # -0.0 is no voxel inside: of floats, the sign is left out
    magnitude = torch.iinfo(values.dtype).max if masks.dtype.is_floating_point else -1
    words = _empty_words(masks, len(counts))
    gpu.launch_triton(
        pack_masks_kernel,
        (_programs(words), len(counts)),
        values=values,
        planes=gpu.table(planes, torch.int32, masks.device),
        ends=gpu.table(_ends(counts), torch.int32, masks.device),
        out=words.view(torch.int32),
        rows=words.shape[1] * words.shape[2],
        width=masks.shape[3],
        MAGNITUDE=magnitude,
        BLOCK=HALF_WORDS,
    )
    return words


@triton.jit
def pack_masks_kernel(values, planes, ends, out, rows, width, MAGNITUDE: tl.constexpr, BLOCK: tl.constexpr):
    group = tl.program_id(1)
    half_words, voxels, inside_row = half_words_and_voxels(rows, width, BLOCK)
    inside = tl.zeros(voxels.shape, tl.int1)
    for member in range(tl.load(ends + group), tl.load(ends + group + 1)):
        plane = tl.load(planes + member).to(tl.int64) * rows * width
        inside |= (tl.load(values + plane + voxels, mask=inside_row, other=0) & MAGNITUDE) != 0
    store_half_words(out, group, half_words, inside, rows, width)


def pack_labels(labels: torch.Tensor, sample: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Words (G, D, H, ceil(W / 64)) of the groups' label ids; see reference.py."""
    values = _integers(labels)
    wide = torch.int64 if values.dtype == torch.int64 else torch.int32
    held = [_held(members, labels.dtype, values.dtype) for members in split(ids, counts)]
    # a label map is read once, for all groups of its sample
    samples = sorted(set(sample))
    groups = [[g for g, b in enumerate(sample) if b == one] for one in samples]
    words = _empty_words(labels, len(sample))
    gpu.launch_triton(
        pack_labels_kernel,
        (_programs(words), len(samples)),
        labels=values,
        samples=gpu.table(samples, torch.int32, labels.device),
        groups=gpu.table([g for members in groups for g in members], torch.int32, labels.device),
        group_ends=gpu.table(_ends([len(members) for members in groups]), torch.int32, labels.device),
        ids=gpu.table([i for members in held for i in members], wide, labels.device),
        id_ends=gpu.table(_ends([len(members) for members in held]), torch.int32, labels.device),
        out=words.view(torch.int32),
        rows=words.shape[1] * words.shape[2],
        width=labels.shape[3],
        BLOCK=HALF_WORDS,
    )
    return words


@triton.jit
def pack_labels_kernel(labels, samples, groups, group_ends, ids, id_ends, out, rows, width, BLOCK: tl.constexpr):
    part = tl.program_id(1)
    half_words, voxels, inside_row = half_words_and_voxels(rows, width, BLOCK)
    volume = tl.load(samples + part).to(tl.int64) * rows * width
    # in the dtype of the ids, which holds each of the labels
    label = tl.load(labels + volume + voxels, mask=inside_row, other=0).to(ids.dtype.element_ty)
    for member in range(tl.load(group_ends + part), tl.load(group_ends + part + 1)):
        group = tl.load(groups + member)
        inside = tl.zeros(voxels.shape, tl.int1)
        for index in range(tl.load(id_ends + group), tl.load(id_ends + group + 1)):
            inside |= label == tl.load(ids + index)
        store_half_words(out, group, half_words, inside & inside_row, rows, width)


def unpack_masks(words: torch.Tensor, width: int) -> torch.Tensor:
    """Bool masks (N, D, H, W); see reference.py."""
    words = words.contiguous()
    masks = torch.empty(*words.shape[:3], width, dtype=torch.bool, device=words.device)
    gpu.launch_triton(
        unpack_masks_kernel,
        (_programs(words), len(words) if width else 0),
        words=words.view(torch.int32),
        out=masks.view(torch.int8),
        rows=words.shape[1] * words.shape[2],
        width=width,
        BLOCK=HALF_WORDS,
    )
    return masks


@triton.jit
def unpack_masks_kernel(words, out, rows, width, BLOCK: tl.constexpr):
    mask = tl.program_id(1).to(tl.int64)
    half_words, voxels, inside_row = half_words_and_voxels(rows, width, BLOCK)
    bits = bits_of(load_half_words(words, mask, half_words, rows, width))
    tl.store(out + mask * rows * width + voxels, bits.to(tl.int8), mask=inside_row)


@triton.jit
def half_words_per_row(width):
    return 2 * tl.cdiv(width, 64)


@triton.jit
def half_words_and_voxels(rows, width, BLOCK: tl.constexpr):
    """Half words [BLOCK, 1] of this program, their voxels [BLOCK, 32], and which of these are inside a row."""
    half_words = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    per_row = half_words_per_row(width)
    row = half_words // per_row
    x = (half_words - row * per_row) * 32 + tl.arange(0, 32)[None, :]
    return half_words, row * width + x, (row < rows) & (x < width)


@triton.jit
def load_half_words(words, mask, half_words, rows, width):
    """Half words [BLOCK, 1] of a mask (int64); zero beyond its end."""
    count = rows * half_words_per_row(width)
    return tl.load(words + mask * count + half_words, mask=half_words < count, other=0)


@triton.jit
def bits_of(half_words):
    """Voxels [BLOCK, 32] of half words [BLOCK, 1], as 0 and 1."""
    return (half_words >> tl.arange(0, 32)[None, :]) & 1


@triton.jit
def store_half_words(out, mask, half_words, inside, rows, width):
    """Store half words [BLOCK, 1] of voxels [BLOCK, 32] to a row of `out`."""
    # bits are apart, so their sum is their union
    word = tl.sum(inside.to(tl.int32) << tl.arange(0, 32)[None, :], axis=1)[:, None]
    count = rows * half_words_per_row(width)
    tl.store(out + mask.to(tl.int64) * count + half_words, word, mask=half_words < count)


def _integers(voxels: torch.Tensor) -> torch.Tensor:
    """The bits of contiguous voxels as signed integers."""
    return voxels.contiguous().view(_INTEGERS[voxels.dtype.itemsize])


def _held(ids: Sequence[int], dtype: torch.dtype, integers: torch.dtype) -> list[int]:
    """The ids that a dtype can hold, as the signed integers of their bits."""
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    span = 1 << torch.iinfo(integers).bits
    return [i - span if i > torch.iinfo(integers).max else i for i in ids if low <= i <= high]


def _ends(counts: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(counts, initial=0))


def _empty_words(voxels: torch.Tensor, count: int) -> torch.Tensor:
    *volume, width = voxels.shape[1:]
    return torch.empty(count, *volume, words_per_row(width), dtype=torch.int64, device=voxels.device)


def _programs(words: torch.Tensor) -> int:
    """Programs for the half words of one mask."""
    return triton.cdiv(2 * words[:1].numel(), HALF_WORDS)
