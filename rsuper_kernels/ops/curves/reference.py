# SPDX-License-Identifier: Apache-2.0
"""The curves of the losses in plain torch, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels import gpu


def volume_curve(
    predicted: torch.Tensor, reported: torch.Tensor, tolerance: float | torch.Tensor = 0.1, smoothing: float = 500.0
) -> torch.Tensor:
    """Loss of a predicted volume P against a reported volume Y, both in mm3, elementwise.

        v = max((1 - tolerance) Y, min(Y, 100))
        L = clamp(|P - Y| / (P + Y + smoothing) - |v - Y| / (v + Y + smoothing), 0, 1)

    At Y = 1000 it is 0.625 at P = 0 and zero from 900 to 1108.7. Gradient to `predicted`.
    Source: Bassi et al., MICCAI 2025, Volume Loss.
    """
    nearest = torch.maximum((1 - tolerance) * reported, reported.clamp(max=100))
    tolerated = (nearest - reported).abs() / (nearest + reported + smoothing)
    return ((predicted - reported).abs() / (predicted + reported + smoothing) - tolerated).clamp(0, 1)


def adaptive_dice(
    tp: torch.Tensor, fp: torch.Tensor, fn: torch.Tensor, *, dim: int | None = 0, empty: str = "skip"
) -> torch.Tensor:
    """Dice loss 1 - tp / (tp + alpha fp + (1 - alpha) fn), whose alpha shifts towards the more frequent error.

        alpha = fp / (fp + fn), summed over `dim` (None: each entry by itself), clamped to [0.2, 0.8], not detached

    Args:
        tp, fp, fn: (B, C) sums of probabilities.
        dim: the axis that shares one alpha, the batch in the segmentation term.
        empty: "skip" gives 0 and no gradient where there is no target, for a mean that leaves it out; "one" gives 1.

    Returns:
        Losses of the same shape. Source: public R-Super code, A.4.
    """
    false_positives, false_negatives = (
        (fp, fn) if dim is None else (fp.sum(dim, keepdim=True), fn.sum(dim, keepdim=True))
    )
    alpha = (false_positives / (false_positives + false_negatives + 1e-5)).clamp(0.2, 0.8)
    loss = 1 - tp / (tp + alpha * fp + (1 - alpha) * fn + 1e-5)
    # tp + fn is the number of target voxels
    return torch.where((tp + fn).detach() > 0, loss, 0.0) if empty == "skip" else loss


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
) -> torch.Tensor:
    """Mean of `volume_curve` over the groups (G, 2) that have voxels, or the sum divided by a positive `count`."""
    predicted, present = sums[:, 0] * voxel, sums[:, 1].detach() > 0
    target, lower, opened = (gpu.table(row, sums.dtype, sums.device) for row in (reported, least, open_ended))
    # of unknown size or count: only volumes that no such tumours can have are pulled to the nearer bound
    bound = predicted.detach().clamp(max=most).maximum(lower)
    losses = volume_curve(predicted, torch.where(opened > 0, bound, target), tolerance * (1 - opened), smoothing)
    return (losses * present).sum() / (count if count else present.sum().clamp(min=1))


def bce_dice(
    sums: torch.Tensor,
    bce_weights: Sequence[float],
    dice_weights: Sequence[float],
    voxels: int,
    empty: str,
    mean_of_present: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums of the cross-entropies and of the Dice losses of planes (B, C, 6); see `bce_dice` in op.py."""
    positive_bce, negative_bce, tp, fp, fn, known = sums.unbind(2)
    target = (tp + fn).detach()
    weights, shares = (gpu.table(row, sums.dtype, sums.device).view_as(tp) for row in (bce_weights, dice_weights))
    if voxels:
        bce = (positive_bce + negative_bce) / voxels
    else:
        inside = target.round()
        bce = positive_bce / inside.clamp(min=1) + negative_bce / (known.detach() - inside).clamp(min=1)
    dice = (adaptive_dice(tp, fp, fn, empty=empty) * shares).sum()
    return (bce * weights).sum(), dice / (target > 0).sum().clamp(min=1) if mean_of_present else dice
