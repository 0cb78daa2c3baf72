# SPDX-License-Identifier: Apache-2.0
"""Masked adaptive Dice and rank pooling of the public code (public R-Super code, A.4, A.6.5)."""

from __future__ import annotations

import torch

from rsuper_kernels.checks import accumulation_dtype, check_float, check_ndim, check_shape
from rsuper_kernels.ops.curves import adaptive_dice
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice


def DiceLossMultiClass(
    preds: torch.Tensor,
    targets: torch.Tensor,
    known_voxels: torch.Tensor,
    alpha: float = 0.5,
    beta: float = 0.5,
    size_average: bool = True,
    reduce: bool = True,
    sigmoid: bool = True,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Take the Dice loss on the known voxels, weighing false positives and negatives by how frequent they are (Q2).

    Args:
        preds: logits (B, C, H, W, D), any float dtype; probabilities with sigmoid=False. (C, H, W, D) is a batch of
            one, (H, W, D) also a single channel. The only input with a gradient.
        targets, known_voxels: same shape, 0 and 1.
        alpha, beta: accepted and ignored, as in the public code.
        size_average, reduce: both True for the mean over B and C, else (B, C).
        class_weights: None, (B, C) or (B, C, ...), whose spatial mean multiplies the losses.

    Returns:
        float32 (float64 for float64 preds). A plane without a target costs 1 and has no gradient (Q3).

    Raises:
        TypeError, ValueError: inputs that do not fit, named.

    Source: public R-Super code, A.4.
    """
    check_float("preds", preds)
    preds, targets, known_voxels = (_five_axes(tensor) for tensor in (preds, targets, known_voxels))
    check_ndim("preds", preds, "(B, C, H, W, D)")
    batch, channels = preds.shape[:2]
    sums = masked_bce_dice(preds, targets, known_voxels, activation="sigmoid" if sigmoid else "identity")
    losses = adaptive_dice(*sums[:, 2:5].unflatten(0, (batch, channels)).unbind(2), empty="one")
    if class_weights is not None:
        weights = class_weights if class_weights.ndim == 2 else class_weights.flatten(2).mean(2)
        check_shape("class_weights", weights, (batch, channels), "(B, C)")
        losses = losses * weights.to(losses)
    return losses.mean() if reduce and size_average else losses


def _five_axes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape((1,) * max(5 - tensor.ndim, 0) + tuple(tensor.shape))


def GlobalWeightedRankPooling(
    x: torch.Tensor,
    N: float | torch.Tensor = 1000,
    c: float = 0.75,
    inverse: bool = False,
    concentrate: float = 1,
    return_weights: bool = False,
    hard_cutoff: bool = False,
) -> torch.Tensor:
    """Average each map with weights d^rank that fall with the rank of the voxel, d = (1 - c)^(1 / N).

    Args:
        x: (..., H, W, D), any float dtype; the highest value has rank 0.
        N: number of voxels that hold the share c of an endless sum of weights; a number, or a tensor of one for each
            map. Values below 1 count as 1.
        c: in [0, 1).
        inverse: weigh by 1 - d^rank from rank N on and by 0 before, not normalised.
        concentrate: above 1, divide the weights from rank N on by it.
        return_weights: return the weights (sum 1, the shape of x) instead of the pooled values.
        hard_cutoff: no weight from rank N on.

    Returns:
        Pooled values (...) or weights like x, float32 (float64 for float64 x). Gradient to `x` through the values only.
        Equal values rank as torch.sort leaves them.

    Raises:
        TypeError, ValueError: inputs that do not fit, named.

    Source: Kolesnikov and Lampert, ECCV 2016; public R-Super code, A.6.5.
    """
    check_float("x", x)
    if x.ndim < 3:
        raise ValueError(f"x: expected (..., H, W, D), got shape {tuple(x.shape)}")
    if not 0 <= c < 1:
        raise ValueError(f"c: expected a number in [0, 1), got {c}")
    dtype = accumulation_dtype(x)
    values = x.to(dtype).flatten(-3)
    count = torch.as_tensor(N, dtype=dtype, device=x.device).clamp(min=1)
    count = count.expand(x.shape[:-3]) if count.numel() == 1 and count.ndim <= 1 else count
    check_shape("N", count, tuple(x.shape[:-3]), "a number, or one for each map")
    weights = rank_decay(values, count[..., None], c, inverse, concentrate, hard_cutoff)
    return weights.reshape(x.shape) if return_weights else (values * weights).sum(-1)


def rank_decay(
    values: torch.Tensor,
    count: torch.Tensor,
    c: float,
    inverse: bool = False,
    concentrate: float = 1,
    hard_cutoff: bool = False,
) -> torch.Tensor:
    """Weights of values (..., V) by rank, `count` (..., 1) being N; see `GlobalWeightedRankPooling`."""
    # the sort is unstable on purpose: it leaves equal values in the order in which the public code's sort leaves them
    order = values.detach().sort(dim=-1, descending=True).indices
    rank = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    # d is rounded to float32 before its powers are taken, which moves the weights of large masks by up to 0.3 %
    decay = ((1 - c) ** (1 / count)) ** rank
    top = rank < count
    if inverse:
        decay = torch.where(top, 0, 1 - decay)
    else:
        decay = torch.where(top, decay, 0) if hard_cutoff else decay
        decay = decay / decay.sum(-1, keepdim=True)
        if concentrate > 1:
            decay = torch.where(top, decay, decay / concentrate)
            decay = decay / decay.sum(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, order, decay.expand_as(values))
