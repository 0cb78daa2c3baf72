# SPDX-License-Identifier: Apache-2.0
"""One program takes all groups: the loss, and its slopes, which backward multiplies by the gradient of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu


@triton.jit
def volume_kernel(
    sums,
    reported,
    least,
    open_ended,
    loss,
    slopes,
    groups,
    voxel,
    most,
    tolerance,
    smoothing,
    count,
    BLOCK: tl.constexpr,
):
    """Volume Loss of (G, 2) sums; slopes are (G, 2)."""
    g = tl.arange(0, BLOCK)
    inside = g < groups
    predicted = tl.load(sums + 2 * g, inside, other=0.0) * voxel
    present = tl.load(sums + 2 * g + 1, inside, other=0.0) > 0
    opened = tl.load(open_ended + g, inside, other=0.0)
    lower = tl.load(least + g, inside, other=0.0)
    bound = tl.maximum(tl.minimum(predicted, most), lower)
    target = tl.where(opened > 0, bound, tl.load(reported + g, inside, other=0.0))

    nearest = tl.maximum((1 - tolerance * (1 - opened)) * target, tl.minimum(target, 100.0))
    tolerated = tl.abs(nearest - target) / (nearest + target + smoothing)
    total = predicted + target + smoothing
    distance = tl.abs(predicted - target) / total
    cost = distance - tolerated
    share = 1.0 / tl.where(count > 0, count, tl.maximum(tl.sum(present.to(tl.float32), 0), 1.0))
    tl.store(loss, tl.sum(tl.where(present, tl.minimum(tl.maximum(cost, 0.0), 1.0), 0.0), 0) * share)

    sign = tl.where(predicted > target, 1.0, tl.where(predicted < target, -1.0, 0.0))
    slope = (sign - distance) / total * voxel * share
    slope = tl.where(present & (cost >= 0) & (cost <= 1), slope, 0.0)
    tl.store(slopes + 2 * g, slope, inside)
    tl.store(slopes + 2 * g + 1, 0.0, inside)


@triton.jit
def bce_dice_kernel(
    sums,
    bce_weights,
    dice_weights,
    bce,
    dice,
    slopes,
    batch,
    channels,
    voxels,
    SKIP_EMPTY: tl.constexpr,
    MEAN_OF_PRESENT: tl.constexpr,
    BATCH: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Cross-entropy and Dice of (B, C, 6) sums; slopes are (2, B, C, 6), those of the cross-entropy first."""
    b, c = tl.arange(0, BATCH)[:, None], tl.arange(0, CHANNELS)[None, :]
    inside = (b < batch) & (c < channels)
    plane = b * channels + c
    positive = tl.load(sums + 6 * plane, inside, other=0.0)
    negative = tl.load(sums + 6 * plane + 1, inside, other=0.0)
    tp = tl.load(sums + 6 * plane + 2, inside, other=0.0)
    fp = tl.load(sums + 6 * plane + 3, inside, other=0.0)
    fn = tl.load(sums + 6 * plane + 4, inside, other=0.0)
    known = tl.load(sums + 6 * plane + 5, inside, other=0.0)
    weight = tl.load(bce_weights + plane, inside, other=0.0)
    share = tl.load(dice_weights + plane, inside, other=0.0)
    present = tp + fn > 0

    target = tl.floor(tp + fn + 0.5)
    positive_share = weight / tl.where(voxels > 0, voxels, tl.maximum(target, 1.0))
    negative_share = weight / tl.where(voxels > 0, voxels, tl.maximum(known - target, 1.0))
    tl.store(bce, tl.sum(tl.sum(positive * positive_share + negative * negative_share, 1), 0))
    tl.store(slopes + 6 * plane, positive_share, inside)
    tl.store(slopes + 6 * plane + 1, negative_share, inside)

    if MEAN_OF_PRESENT:
        share = share / tl.maximum(tl.sum(tl.sum((present & inside).to(tl.float32), 1), 0), 1.0)
    if SKIP_EMPTY:
        share = tl.where(present, share, 0.0)
    fps, fns = tl.sum(fp, 0)[None, :], tl.sum(fn, 0)[None, :]
    errors = fps + fns + 1e-5
    ratio = fps / errors
    alpha = tl.minimum(tl.maximum(ratio, 0.2), 0.8)
    total = tp + alpha * fp + (1 - alpha) * fn + 1e-5
    tl.store(dice, tl.sum(tl.sum(tl.where(inside, share * (1 - tp / total), 0.0), 1), 0))

    # through alpha every plane of a column pulls on the fp and fn of all of them
    pull = share * tp / (total * total)
    of_alpha = tl.where((ratio >= 0.2) & (ratio <= 0.8), tl.sum(pull * (fp - fn), 0)[None, :], 0.0) / (errors * errors)
    second = slopes + 6 * batch * channels + 6 * plane
    tl.store(second, tl.zeros_like(tp), inside)
    tl.store(second + 1, tl.zeros_like(tp), inside)
    tl.store(second + 2, pull - share / total, inside)
    tl.store(second + 3, pull * alpha + of_alpha * (fns + 1e-5), inside)
    tl.store(second + 4, pull * (1 - alpha) - of_alpha * fps, inside)
    tl.store(second + 5, tl.zeros_like(tp), inside)
    for i in tl.static_range(2, 6):
        tl.store(slopes + 6 * plane + i, tl.zeros_like(tp), inside)


@triton.jit
def curve_backward_kernel(first, second, slopes, out, count, TWO: tl.constexpr, BLOCK: tl.constexpr):
    """The slopes (count,) of one output or (2, count) of two, times the outputs' gradients."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    grad = tl.load(first) * tl.load(slopes + i, inside, other=0.0)
    if TWO:
        grad += tl.load(second) * tl.load(slopes + count + i, inside, other=0.0)
    tl.store(out + i, grad, inside)


def volume(
    sums: torch.Tensor,
    reported: Sequence[float],
    least: Sequence[float],
    open_ended: Sequence[float],
    voxel: float,
    most: float,
    tolerance: float,
    smoothing: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The Volume Loss of (G, 2) sums, and its slopes (1, G, 2)."""
    tables = [gpu.table(row, torch.float32, sums.device) for row in (reported, least, open_ended)]
    loss, slopes = sums.new_empty(()), sums.new_empty(1, *sums.shape)
    gpu.launch_triton(
        volume_kernel,
        (1,),
        sums=sums.contiguous(),
        reported=tables[0],
        least=tables[1],
        open_ended=tables[2],
        loss=loss,
        slopes=slopes,
        groups=len(sums),
        voxel=voxel,
        most=most,
        tolerance=tolerance,
        smoothing=smoothing,
        count=float(count),
        BLOCK=triton.next_power_of_2(len(sums)),
    )
    return loss, slopes


def bce_dice(
    sums: torch.Tensor,
    bce_weights: Sequence[float],
    dice_weights: Sequence[float],
    voxels: int,
    empty: str,
    mean_of_present: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy and Dice of (B, C, 6) sums, and their slopes (2, B, C, 6)."""
    batch, channels = sums.shape[:2]
    bce, dice, slopes = sums.new_empty(()), sums.new_empty(()), sums.new_empty(2, *sums.shape)
    gpu.launch_triton(
        bce_dice_kernel,
        (1,),
        sums=sums.contiguous(),
        bce_weights=gpu.table(bce_weights, torch.float32, sums.device),
        dice_weights=gpu.table(dice_weights, torch.float32, sums.device),
        bce=bce,
        dice=dice,
        slopes=slopes,
        batch=batch,
        channels=channels,
        voxels=float(voxels),
        SKIP_EMPTY=empty == "skip",
        MEAN_OF_PRESENT=mean_of_present,
        BATCH=triton.next_power_of_2(batch),
        CHANNELS=triton.next_power_of_2(channels),
    )
    return bce, dice, slopes


def curve_backward(grads: Sequence[torch.Tensor], slopes: torch.Tensor) -> torch.Tensor:
    """The gradient of the sums; `slopes` has a row for each of one or two outputs."""
    out = slopes.new_empty(slopes.shape[1:])
    block = min(triton.next_power_of_2(out.numel()), 1024)
    gpu.launch_triton(
        curve_backward_kernel,
        (triton.cdiv(out.numel(), block),),
        first=grads[0].contiguous(),
        second=grads[-1].contiguous(),
        slopes=slopes,
        out=out,
        count=out.numel(),
        TWO=len(grads) == 2,
        BLOCK=block,
    )
    return out
