# SPDX-License-Identifier: Apache-2.0
"""What one group of a term adds to its plane, where masks are bits: partial sums of a tile, and slopes of a part of it.

`x` is the plane, `first` the first word; `sizes` are the words of a plane and of a row, and the width.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rsuper_kernels.ops.attenuation_stats.triton_kernel import evaluate, slope_of, soft_masks, with_moments
from rsuper_kernels.ops.masked_bce_dice.triton_kernel import plain_entropies, plain_slopes
from rsuper_kernels.tiles import (
    LANES,
    OUTSIDE,
    bits_of,
    count_bits,
    load_voxels,
    load_words,
    log_of_one_plus,
    logistic,
    probability,
    probability_slope,
    thread_products,
    thread_sums,
    thread_zeros,
)


@triton.jit
def region_partials(
    x, first, sizes, region, out, stride,
    SIGMOID: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Probability and voxels of a region; `out` has room for a number every `stride`."""
    voxels = tl.sum(count_bits(load_words(region, first, sizes, TILE, ROWS)))
    total = thread_zeros(PART, VECTOR)
    if voxels > 0:
        for part in range(first, tl.minimum(first + TILE, sizes[0]), PART):
            words = load_words(region, part, sizes, PART, ROWS)
            p = probability(load_voxels(x, words, part, sizes, ROWS), SIGMOID, VECTOR == 4)
            total = thread_sums(total, tl.where(bits_of(words, VECTOR), p, 0.0), VECTOR)
    tl.store(out, tl.sum(total))
    tl.store(out + stride, voxels.to(tl.float32))


@triton.jit
def region_slopes(
    slopes, x, first, sizes, region, grad,
    SIGMOID: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`slopes` and those of a region's probability, whose gradient is at `grad`."""
    words = load_words(region, first, sizes, PART, ROWS)
    if tl.max((words != 0).to(tl.int32)) > 0:
        slope = probability_slope(load_voxels(x, words, first, sizes, ROWS), SIGMOID, VECTOR == 4)
        slopes += tl.where(bits_of(words, VECTOR), tl.load(grad) * slope, 0.0)
    return slopes


@triton.jit
def weights_of(weights, count, before, targets, VECTOR: tl.constexpr):
    """Weights (words, LANES) of target voxels, `before` of which come earlier; 0 for other voxels."""
    counts = count_bits(targets)
    below = (tl.full((1, LANES), 1, tl.int32) << tl.arange(0, LANES)[None, :]) - 1
    order = (tl.cumsum(counts, 0) - counts)[:, None] + count_bits(targets[:, None] & below)
    # fewer weights than target voxels are refused on the CPU; here the last one serves the others
    place = tl.minimum(before + order, count - 1)
    return tl.load(weights + place, mask=bits_of(targets, VECTOR), other=0).to(tl.float32)


@triton.jit
def bce_dice_partials(
    x, first, sizes, targets, known, weights, count, before, out, stride,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The six sums of masked cross-entropy and Dice; `before` points to the number of earlier targets."""
    known_words = load_words(known, first, sizes, TILE, ROWS)
    voxels = tl.sum(count_bits(known_words))
    held = load_words(targets, first, sizes, TILE, ROWS) & known_words if SIGMOID else known_words
    positive, negative, tp, fp, fn, target_logs, other_logs = (thread_zeros(PART, VECTOR),) * 7
    if voxels > 0:
        if tl.max((held != 0).to(tl.int32)) == 0:
            for part in range(first, tl.minimum(first + TILE, sizes[0]), PART):
                k = load_words(known, part, sizes, PART, ROWS)
                y = tl.where(bits_of(k, VECTOR), load_voxels(x, k, part, sizes, ROWS), OUTSIDE)
                t, p, _ = logistic(y, VECTOR == 4)
                negative = thread_sums(negative, tl.maximum(y, 0.0), VECTOR)
                other_logs = thread_products(other_logs, t, VECTOR)
                fp = thread_sums(fp, p, VECTOR)
        else:
            earlier = tl.load(before).to(tl.int32) if WEIGHTED else 0
            for part in range(first, tl.minimum(first + TILE, sizes[0]), PART):
                k = load_words(known, part, sizes, PART, ROWS)
                of_targets = load_words(targets, part, sizes, PART, ROWS)
                target, voxel = bits_of(of_targets & k, VECTOR), load_voxels(x, k, part, sizes, ROWS)
                if SIGMOID:
                    # of targets, 1 - p is what p is of other voxels
                    y = tl.where(bits_of(k, VECTOR), tl.where(target, -voxel, voxel), OUTSIDE)
                    t, wrong, right = logistic(y, VECTOR == 4)
                    linear = tl.maximum(y, 0.0)
                    negative = thread_sums(negative, tl.where(target, 0.0, linear), VECTOR)
                    other_logs = thread_products(other_logs, tl.where(target, 0.0, t), VECTOR)
                    if WEIGHTED:
                        entropy = (linear + log_of_one_plus(t)) * weights_of(
                            weights, count, earlier, of_targets, VECTOR
                        )
                        positive = thread_sums(positive, tl.where(target, entropy, 0.0), VECTOR)
                    else:
                        positive = thread_sums(positive, tl.where(target, linear, 0.0), VECTOR)
                        target_logs = thread_products(target_logs, tl.where(target, t, 0.0), VECTOR)
                    fp = thread_sums(fp, tl.where(target, 0.0, wrong), VECTOR)
                    fn = thread_sums(fn, tl.where(target, wrong, 0.0), VECTOR)
                    tp = thread_sums(tp, tl.where(target, right, 0.0), VECTOR)
                else:
                    p = tl.where(bits_of(k, VECTOR), voxel, 0.5)
                    of_target, of_other = plain_entropies(p)
                    if WEIGHTED:
                        of_target *= weights_of(weights, count, earlier, of_targets, VECTOR)
                    other = bits_of(k & (of_targets ^ -1), VECTOR)
                    positive = thread_sums(positive, tl.where(target, of_target, 0.0), VECTOR)
                    negative = thread_sums(negative, tl.where(other, of_other, 0.0), VECTOR)
                    fp = thread_sums(fp, tl.where(other, p, 0.0), VECTOR)
                    fn = thread_sums(fn, tl.where(target, 1 - p, 0.0), VECTOR)
                    tp = thread_sums(tp, tl.where(target, p, 0.0), VECTOR)
                if WEIGHTED:
                    earlier += tl.sum(count_bits(of_targets))
    tl.store(out, tl.sum(positive + log_of_one_plus(target_logs)))
    tl.store(out + stride, tl.sum(negative + log_of_one_plus(other_logs)))
    tl.store(out + 2 * stride, tl.sum(tp))
    tl.store(out + 3 * stride, tl.sum(fp))
    tl.store(out + 4 * stride, tl.sum(fn))
    tl.store(out + 5 * stride, voxels.to(tl.float32))


@triton.jit
def bce_dice_slopes(
    slopes, x, first, sizes, targets, known, weights, count, before, grad,
    WEIGHTED: tl.constexpr, SIGMOID: tl.constexpr, SPAN: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """`slopes` and those of the six sums, whose gradients are at `grad`; `before` counts up to a multiple of SPAN."""
    k = load_words(known, first, sizes, PART, ROWS)
    of_targets = load_words(targets, first, sizes, PART, ROWS)
    # 1 where there is no target, which is shorter with the logistic function; 0 where nothing is known
    held = tl.max(tl.where(k != 0, tl.where(of_targets & k != 0, 2, 1 if SIGMOID else 2), 0))
    if held > 0:
        voxel = load_voxels(x, k, first, sizes, ROWS)
        positive, negative = tl.load(grad), tl.load(grad + 1)
        of_target, of_other = tl.load(grad + 2) - tl.load(grad + 4), tl.load(grad + 3)
        if held == 1:
            _, p, q = logistic(tl.where(bits_of(k, VECTOR), voxel, OUTSIDE), VECTOR == 4)
            slopes += p * (negative + of_other * q)
        else:
            target = bits_of(of_targets, VECTOR)
            if WEIGHTED:
                start = first // SPAN * SPAN
                earlier = tl.load(before).to(tl.int32)
                for part in range(start, first, PART):
                    earlier += tl.sum(count_bits(load_words(targets, part, sizes, PART, ROWS)))
                of_positive = positive * weights_of(weights, count, earlier, of_targets, VECTOR)
            else:
                of_positive = tl.full(voxel.shape, positive, tl.float32)
            if SIGMOID:
                # of targets, 1 - p is what p is of other voxels
                y = tl.where(bits_of(k, VECTOR), tl.where(target, -voxel, voxel), OUTSIDE)
                _, wrong, right = logistic(y, VECTOR == 4)
                entropy = tl.where(target, -of_positive, negative)
                slopes += wrong * (entropy + tl.where(target, of_target, of_other) * right)
            else:
                slope_positive, slope_negative = plain_slopes(tl.where(bits_of(k, VECTOR), voxel, 0.5))
                entropy = tl.where(target, of_positive * slope_positive, negative * slope_negative)
                slopes += tl.where(bits_of(k, VECTOR), entropy + tl.where(target, of_target, of_other), 0.0)
    return slopes


@triton.jit
def load_ct(ct, words, first, sizes, window, ROWS: tl.constexpr):
    """Clipped CT of some words."""
    low, high = tl.load(window).to(tl.float32), tl.load(window + 1).to(tl.float32)
    return tl.minimum(tl.maximum(load_voxels(ct, words, first, sizes, ROWS), low), high)


@triton.jit
def attenuation_partials(
    x, first, sizes, ct, tumour, organ, window, out, stride,
    SIGMOID: tl.constexpr, TILE: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Weight, mean and squares about the mean of the CT under the soft masks of tumour and organ."""
    either = load_words(tumour, first, sizes, TILE, ROWS) | load_words(organ, first, sizes, TILE, ROWS)
    weight, mean, squares, organ_weight, organ_mean, organ_squares = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if tl.max((either != 0).to(tl.int32)) > 0:
        for part in range(first, tl.minimum(first + TILE, sizes[0]), PART):
            t, o = load_words(tumour, part, sizes, PART, ROWS), load_words(organ, part, sizes, PART, ROWS)
            values = load_ct(ct, t | o, part, sizes, window, ROWS)
            p = probability(load_voxels(x, t | o, part, sizes, ROWS), SIGMOID, VECTOR == 4)
            m_tumour, m_organ = soft_masks(p, bits_of(t, VECTOR).to(tl.float32), bits_of(o, VECTOR).to(tl.float32))
            weight, mean, squares = with_moments(weight, mean, squares, values, m_tumour)
            organ_weight, organ_mean, organ_squares = with_moments(
                organ_weight, organ_mean, organ_squares, values, m_organ
            )
    tl.store(out, weight)
    tl.store(out + stride, mean)
    tl.store(out + 2 * stride, squares)
    tl.store(out + 3 * stride, organ_weight)
    tl.store(out + 4 * stride, organ_mean)
    tl.store(out + 5 * stride, organ_squares)


@triton.jit
def attenuation_slopes(
    slopes, x, first, sizes, ct, tumour, organ, window, stats, grad,
    SIGMOID: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`slopes` and those of the statistics `stats` of a group, whose gradients are at `grad`."""
    t = load_words(tumour, first, sizes, PART, ROWS)
    if tl.max((t != 0).to(tl.int32)) > 0:
        o = load_words(organ, first, sizes, PART, ROWS)
        values, eps = load_ct(ct, t, first, sizes, window, ROWS), tl.load(window + 2)
        of_tumour = evaluate(values, slope_of(stats, grad, eps))
        of_organ = evaluate(values, slope_of(stats + 3, grad + 3, eps))
        slope = probability_slope(load_voxels(x, t, first, sizes, ROWS), SIGMOID, VECTOR == 4)
        slopes += tl.where(bits_of(t, VECTOR), (of_tumour - tl.where(bits_of(o, VECTOR), of_organ, 0.0)) * slope, 0.0)
    return slopes
