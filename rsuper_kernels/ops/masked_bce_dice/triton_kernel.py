# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the masked cross-entropy and Dice sums: one launch in each direction, a block of voxels to a
program."""

from __future__ import annotations

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
    log_of_one_plus,
    logistic,
    plane_start,
    readable,
    twice_artanh,
)


def masked_bce_dice(
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None,
    sample: Sequence[int],
    channel: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Sums (G, 6) of the planes; see reference.py."""
    logits = logits.contiguous()
    arguments = _arguments(logits, targets, known, weights, activation)
    return launch_sums(masked_bce_dice_fwd_kernel, logits, planes_of(logits, sample, channel), 6, arguments)[0]


def masked_bce_dice_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None,
    sample: Sequence[int],
    channel: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits = logits.contiguous()
    arguments = _arguments(logits, targets, known, weights, activation)
    return launch_slopes(masked_bce_dice_bwd_kernel, grad, logits, planes_of(logits, sample, channel), arguments)


def _arguments(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, weights: torch.Tensor | None, activation: str
) -> dict[str, Any]:
    return {
        "targets": readable(targets),
        "known": readable(known),
        "weights": logits if weights is None else readable(weights),
        "WEIGHTED": weights is not None,
        "SIGMOID": activation == "sigmoid",
    }


@triton.jit
def _minus_log(p):
    """-log p, at most 100; close to p = 1 exact in relative terms."""
    minus_log = tl.where(p > 0.5, -twice_artanh((p - 1) / (p + 1)), -tl.log(p))
    return tl.minimum(minus_log, 100.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def plain_entropies(p):
    """-log p and -log(1 - p) of probabilities, each at most 100, as in torch."""
    return _minus_log(p), _minus_log(1 - p)


@triton.jit
def plain_slopes(p):
    """Derivatives of -log p and of -log(1 - p) with respect to p."""
    # p (1 - p) is kept away from 0 as torch does, so that p = 0 and p = 1 have finite slopes
    scale = tl.maximum(p * (1 - p), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    return (p - 1) / scale, p / scale


@triton.jit
def _entropies(x, SIGMOID: tl.constexpr):
    """-log p, -log(1 - p), p and 1 - p."""
    if SIGMOID:
        t, p, q = logistic(x, True)
        logs = log_of_one_plus(t)
        return tl.maximum(-x, 0.0) + logs, tl.maximum(x, 0.0) + logs, p, q
    of_p, of_q = plain_entropies(x)
    return of_p, of_q, x, 1 - x


@triton.jit
def _slopes(x, SIGMOID: tl.constexpr):
    """Derivatives of -log p, of -log(1 - p) and of p."""
    if SIGMOID:
        _, p, q = logistic(x, True)
        return -q, p, p * q
    of_p, of_q = plain_slopes(x)
    return of_p, of_q, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def _masks(
    targets, known, weights, group, voxels, offsets, inside,
    WEIGHTED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Known targets, known background, known voxels, and weights of the cross-entropy."""
    k = load_block(known, group, voxels, offsets, inside, ROWS)
    kt = k * load_block(targets, group, voxels, offsets, inside, ROWS)
    w = load_block(weights, group, voxels, offsets, inside, ROWS) if WEIGHTED else 1.0
    return kt, k - kt, k, w


@gpu.registers(80)
@triton.jit(do_not_specialize=PLAIN)
def masked_bce_dice_fwd_kernel(
    logits, partials, sums, state, counters, table, targets, known, weights, voxels,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of the groups of each plane of the table."""
    block, blocks, plane = tl.program_id(0), tl.num_programs(0), tl.load(table + tl.program_id(1))
    begins = table + tl.num_programs(1) + tl.program_id(1)
    offsets, inside = block_of(block, voxels, BLOCK, ROWS)
    x = load_block(logits, plane, voxels, offsets, inside, ROWS)
    for entry in range(tl.load(begins), tl.load(begins + 1)):
        group = tl.load(table + entry).to(tl.int64)
        kt, kn, k, w = _masks(targets, known, weights, group, voxels, offsets, inside, WEIGHTED, ROWS)
        of_p, of_q, p, q = _entropies(x, SIGMOID)
        out = partials + group * 6 * blocks + block
        tl.store(out, tl.sum(w * kt * of_p))
        tl.store(out + blocks, tl.sum(w * kn * of_q))
        tl.store(out + 2 * blocks, tl.sum(kt * p))
        tl.store(out + 3 * blocks, tl.sum(kn * p))
        tl.store(out + 4 * blocks, tl.sum(kt * q))
        tl.store(out + 5 * blocks, tl.sum(k))
    if is_last(counters + tl.program_id(1), blocks):
        for entry in range(tl.load(begins), tl.load(begins + 1)):
            first = tl.load(table + entry).to(tl.int64) * 6
            add_up(partials + first * blocks, blocks, sums + first, state + first, 6)


@triton.jit(do_not_specialize=PLAIN)
def masked_bce_dice_bwd_kernel(
    grad, logits, out, table, targets, known, weights, voxels,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of every plane; those without groups are not read."""
    plane = tl.program_id(1)
    begin, end = tl.load(table + tl.num_programs(1) + plane), tl.load(table + tl.num_programs(1) + plane + 1)
    offsets, inside = block_of(tl.program_id(0), voxels, BLOCK, ROWS)
    x = load_block(logits, plane, voxels, offsets, inside & (begin < end), ROWS)
    slopes = tl.zeros((BLOCK,), tl.float32)
    for entry in range(begin, end):
        group = tl.load(table + entry).to(tl.int64)
        kt, kn, _, w = _masks(targets, known, weights, group, voxels, offsets, inside, WEIGHTED, ROWS)
        of_p, of_q, slope = _slopes(x, SIGMOID)
        of = grad + 6 * group
        entropy = tl.load(of) * kt * of_p + tl.load(of + 1) * kn * of_q
        dice = kt * (tl.load(of + 2) - tl.load(of + 4)) + kn * tl.load(of + 3)
        slopes += w * entropy + dice * slope
    tl.store(out + plane_start(plane, voxels, ROWS) + offsets, slopes.to(out.dtype.element_ty), mask=inside)
