# SPDX-License-Identifier: Apache-2.0
"""What one group of a term adds to a tile of its plane, where masks are bits: partial sums, and slopes."""

from __future__ import annotations

import triton
import triton.language as tl

from rsuper_kernels.ops.attenuation_stats.triton_kernel import evaluate, moments, slope_of, soft_masks
from rsuper_kernels.ops.masked_bce_dice.triton_kernel import plain_entropies, plain_slopes
from rsuper_kernels.tiles import (
    LANES,
    OUTSIDE,
    bits_of,
    count_bits,
    load_voxels,
    log_of_one_plus,
    logistic,
    probability,
    probability_slope,
    sum_of_logs,
)


@triton.jit
def region_partials(plane, offsets, inside, region, out, stride, SIGMOID: tl.constexpr, VECTOR: tl.constexpr):
    """Probability and voxels of a region; `out` has room for a number every `stride`."""
    voxels = tl.sum(count_bits(region))
    total = 0.0
    if voxels > 0:
        x = load_voxels(plane, offsets, inside, region)
        total = tl.sum(tl.where(bits_of(region), probability(x, SIGMOID, VECTOR == 4), 0.0))
    tl.store(out, total)
    tl.store(out + stride, voxels.to(tl.float32))


@triton.jit
def region_slopes(slopes, plane, offsets, inside, region, grad, SIGMOID: tl.constexpr, VECTOR: tl.constexpr):
    """`slopes` and those of a region's probability, whose gradient is at `grad`."""
    if tl.sum(count_bits(region)) > 0:
        x = load_voxels(plane, offsets, inside, region)
        slopes += tl.where(bits_of(region), tl.load(grad) * probability_slope(x, SIGMOID, VECTOR == 4), 0.0)
    return slopes


@triton.jit
def weights_of(weights, count, before, targets):
    """Weights (TILE, LANES) of target voxels, `before` points to how many come before the tile; 0 for other voxels."""
    counts = count_bits(targets)
    below = (tl.full((1, LANES), 1, tl.int32) << tl.arange(0, LANES)[None, :]) - 1
    order = (tl.cumsum(counts, 0) - counts)[:, None] + count_bits(targets[:, None] & below)
    # fewer weights than target voxels are refused on the CPU; here the last one serves the others
    place = tl.minimum(tl.load(before).to(tl.int64) + order, count - 1)
    return tl.load(weights + place, mask=bits_of(targets), other=0).to(tl.float32)


@triton.jit
def bce_dice_partials(
    plane, offsets, inside, targets, known, weights, count, before, out, stride,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The six sums of masked cross-entropy and Dice."""
    voxels = tl.sum(count_bits(known))
    positives = tl.sum(count_bits(targets & known))
    positive, negative, tp, fp, fn = 0.0, 0.0, 0.0, 0.0, 0.0
    if voxels > 0:
        x = load_voxels(plane, offsets, inside, known)
        if not SIGMOID:
            is_known, target = bits_of(known), bits_of(targets & known)
            p = tl.where(is_known, x, 0.5)
            of_target, of_background = plain_entropies(p)
            if WEIGHTED:
                of_target *= weights_of(weights, count, before, targets)
            background = is_known & (target == 0)
            positive = tl.sum(tl.where(target, of_target, 0.0))
            negative = tl.sum(tl.where(background, of_background, 0.0))
            tp = tl.sum(tl.where(target, p, 0.0))
            fp = tl.sum(tl.where(background, p, 0.0))
            fn = tl.sum(tl.where(target, 1 - p, 0.0))
        elif positives == 0:
            y = tl.where(bits_of(known), x, OUTSIDE)
            t, p, _ = logistic(y, VECTOR == 4)
            negative = tl.sum(tl.maximum(y, 0.0)) + sum_of_logs(t, VECTOR)
            fp = tl.sum(p)
        else:
            target = bits_of(targets)
            # of targets, 1 - p is what p is of other voxels
            y = tl.where(bits_of(known), tl.where(target, -x, x), OUTSIDE)
            t, wrong, right = logistic(y, VECTOR == 4)
            entropy = tl.maximum(y, 0.0) + log_of_one_plus(t)
            negative = tl.sum(tl.where(target, 0.0, entropy))
            fp = tl.sum(tl.where(target, 0.0, wrong))
            fn = tl.sum(tl.where(target, wrong, 0.0))
            tp = tl.sum(tl.where(bits_of(targets & known), right, 0.0))
            if WEIGHTED:
                entropy *= weights_of(weights, count, before, targets)
            positive = tl.sum(tl.where(target, entropy, 0.0))
    tl.store(out, positive)
    tl.store(out + stride, negative)
    tl.store(out + 2 * stride, tp)
    tl.store(out + 3 * stride, fp)
    tl.store(out + 4 * stride, fn)
    tl.store(out + 5 * stride, voxels.to(tl.float32))


@triton.jit
def bce_dice_slopes(
    slopes, plane, offsets, inside, targets, known, weights, count, before, grad,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """`slopes` and those of the six sums, whose gradients are at `grad`."""
    if tl.sum(count_bits(known)) > 0:
        x = load_voxels(plane, offsets, inside, known)
        positive, negative = tl.load(grad), tl.load(grad + 1)
        of_target, of_background = tl.load(grad + 2) - tl.load(grad + 4), tl.load(grad + 3)
        if not SIGMOID:
            target = bits_of(targets)
            if WEIGHTED:
                positive *= weights_of(weights, count, before, targets)
            of_p, of_q = plain_slopes(tl.where(bits_of(known), x, 0.5))
            entropy = tl.where(target, positive * of_p, negative * of_q)
            slopes += tl.where(bits_of(known), entropy + tl.where(target, of_target, of_background), 0.0)
        elif tl.sum(count_bits(targets & known)) == 0:
            _, p, q = logistic(tl.where(bits_of(known), x, OUTSIDE), VECTOR == 4)
            slopes += p * (negative + of_background * q)
        else:
            target = bits_of(targets)
            if WEIGHTED:
                positive *= weights_of(weights, count, before, targets)
            # of targets, 1 - p is what p is of other voxels
            _, wrong, right = logistic(tl.where(bits_of(known), tl.where(target, -x, x), OUTSIDE), VECTOR == 4)
            entropy = tl.where(target, -positive, negative)
            slopes += wrong * (entropy + tl.where(target, of_target, of_background) * right)
    return slopes


@triton.jit
def load_ct(ct, offsets, inside, words, window):
    """CT of a tile, clipped."""
    low, high = tl.load(window).to(tl.float32), tl.load(window + 1).to(tl.float32)
    return tl.minimum(tl.maximum(load_voxels(ct, offsets, inside, words), low), high)


@triton.jit
def attenuation_partials(
    plane, offsets, inside, ct, tumour, organ, window, out, stride, SIGMOID: tl.constexpr, VECTOR: tl.constexpr
):
    """Weight, mean and squares about the mean of the CT under the soft masks of tumour and organ."""
    either = tumour | organ
    weight, mean, squares, organ_weight, organ_mean, organ_squares = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if tl.sum(count_bits(either)) > 0:
        x = load_voxels(plane, offsets, inside, either)
        values = load_ct(ct, offsets, inside, either, window)
        m_tumour, m_organ = soft_masks(
            probability(x, SIGMOID, VECTOR == 4), bits_of(tumour).to(tl.float32), bits_of(organ).to(tl.float32)
        )
        weight, mean, squares = moments(values, m_tumour)
        organ_weight, organ_mean, organ_squares = moments(values, m_organ)
    tl.store(out, weight)
    tl.store(out + stride, mean)
    tl.store(out + 2 * stride, squares)
    tl.store(out + 3 * stride, organ_weight)
    tl.store(out + 4 * stride, organ_mean)
    tl.store(out + 5 * stride, organ_squares)


@triton.jit
def attenuation_slopes(
    slopes, plane, offsets, inside, ct, tumour, organ, window, stats, grad, SIGMOID: tl.constexpr, VECTOR: tl.constexpr
):
    """`slopes` and those of the statistics `stats` of a group, whose gradients are at `grad`."""
    if tl.sum(count_bits(tumour)) > 0:
        x = load_voxels(plane, offsets, inside, tumour)
        values = load_ct(ct, offsets, inside, tumour, window)
        eps = tl.load(window + 2)
        of_tumour = evaluate(values, slope_of(stats, grad, eps))
        of_organ = evaluate(values, slope_of(stats + 3, grad + 3, eps))
        slope = (of_tumour - tl.where(bits_of(organ), of_organ, 0.0)) * probability_slope(x, SIGMOID, VECTOR == 4)
        slopes += tl.where(bits_of(tumour), slope, 0.0)
    return slopes
