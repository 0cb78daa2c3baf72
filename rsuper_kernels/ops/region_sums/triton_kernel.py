# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the region sums: one launch in each direction, a block of a plane's voxels to a program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.tables import planes_of
from rsuper_kernels.tiles import (
    PLAIN,
    add_up,
    block_of,
    is_last,
    launch_slopes,
    launch_sums,
    load_block,
    plane_start,
    probability,
    probability_slope,
    readable,
)


def region_sums(
    logits: torch.Tensor,
    regions: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[int],
    id_counts: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Sums (G,) of the probabilities inside each group's region; see reference.py."""
    logits = logits.contiguous()
    arguments = _arguments(logits, regions, ids, id_counts, activation)
    sums, _ = launch_sums(region_sums_fwd_kernel, logits, planes_of(logits, sample, channel), 1, arguments)
    return sums.view(-1)


def region_sums_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    regions: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[int],
    id_counts: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits = logits.contiguous()
    arguments = _arguments(logits, regions, ids, id_counts, activation)
    return launch_slopes(region_sums_bwd_kernel, grad, logits, planes_of(logits, sample, channel), arguments)


def _arguments(
    logits: torch.Tensor, regions: torch.Tensor, ids: Sequence[int], id_counts: Sequence[int], activation: str
) -> dict[str, Any]:
    # where the ids of each group begin, and end; the ids
    begins = itertools.accumulate(id_counts, initial=len(id_counts) + 1)
    return {
        "regions": readable(regions),
        "ids": gpu.table([*begins, *ids], torch.int64, logits.device),
        "channels": logits.shape[1],
        "LABELS": len(id_counts) > 0,
        "SIGMOID": activation == "sigmoid",
    }


@triton.jit
def _weights(
    regions, ids, group, plane, channels, voxels, offsets, inside,
    LABELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Weights of a group's region, or where a label map holds one of its ids."""
    if not LABELS:
        return load_block(regions, group, voxels, offsets, inside, ROWS)
    # as int64: an id that the map's type cannot hold matches nothing
    sample = plane_start(plane // channels, voxels, ROWS)
    labels = tl.load(regions + sample + offsets, mask=inside, other=0).to(tl.int64)
    held = tl.zeros(labels.shape, tl.int1)
    for index in range(tl.load(ids + group), tl.load(ids + group + 1)):
        held |= labels == tl.load(ids + index)
    return (held & inside).to(tl.float32)


@triton.jit(do_not_specialize=PLAIN)
def region_sums_fwd_kernel(
    logits, partials, sums, state, counters, table, regions, ids, channels, voxels,
    LABELS: tl.constexpr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of the groups of each plane of the table."""
    block, blocks, plane = tl.program_id(0), tl.num_programs(0), tl.load(table + tl.program_id(1))
    begins = table + tl.num_programs(1) + tl.program_id(1)
    offsets, inside = block_of(block, voxels, BLOCK, ROWS)
    p = probability(load_block(logits, plane, voxels, offsets, inside, ROWS), SIGMOID, True)
    for entry in range(tl.load(begins), tl.load(begins + 1)):
        group = tl.load(table + entry).to(tl.int64)
        weights = _weights(regions, ids, group, plane, channels, voxels, offsets, inside, LABELS, ROWS)
        tl.store(partials + group * blocks + block, tl.sum(p * weights))
    if is_last(counters + tl.program_id(1), blocks):
        for entry in range(tl.load(begins), tl.load(begins + 1)):
            group = tl.load(table + entry).to(tl.int64)
            add_up(partials + group * blocks, blocks, sums + group, state + group, 1)


@triton.jit(do_not_specialize=PLAIN)
def region_sums_bwd_kernel(
    grad, logits, out, table, regions, ids, channels, voxels,
    LABELS: tl.constexpr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of every plane; those without groups are not read."""
    plane = tl.program_id(1)
    begin, end = tl.load(table + tl.num_programs(1) + plane), tl.load(table + tl.num_programs(1) + plane + 1)
    offsets, inside = block_of(tl.program_id(0), voxels, BLOCK, ROWS)
    slopes = tl.zeros((BLOCK,), tl.float32)
    for entry in range(begin, end):
        group = tl.load(table + entry).to(tl.int64)
        weights = _weights(regions, ids, group, plane, channels, voxels, offsets, inside, LABELS, ROWS)
        slopes += tl.load(grad + group) * weights
    x = load_block(logits, plane, voxels, offsets, inside & (begin < end), ROWS)
    slopes *= probability_slope(x, SIGMOID, True)
    tl.store(out + plane_start(plane, voxels, ROWS) + offsets, slopes.to(out.dtype.element_ty), mask=inside)
