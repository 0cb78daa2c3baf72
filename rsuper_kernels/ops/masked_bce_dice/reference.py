# SPDX-License-Identifier: Apache-2.0
"""Six sums over the known voxels k of each plane, with x the logits, p = sigmoid(x), t the target, w the weights:

positive_bce = sum k w t log(1 + exp(-x))        tp = sum k t p            fn    = sum k t (1 - p)
negative_bce = sum k w (1 - t) log(1 + exp(x))   fp = sum k (1 - t) p      known = sum k
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from rsuper_kernels.checks import accumulation_dtype


def masked_bce_dice(
    logits: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    weights: torch.Tensor | None,
    sample: Sequence[int],
    channel: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Sums (G, 6) of the planes, in the order of `SUMS`."""
    dtype = accumulation_dtype(logits)
    out = torch.zeros(len(sample), 6, dtype=dtype, device=logits.device)
    for g, (b, c) in enumerate(zip(sample, channel, strict=True)):
        x, t, k = logits[b, c].to(dtype), targets[g].to(dtype), known[g].to(dtype)
        w = k if weights is None else k * weights[g].to(dtype)
        p = x.sigmoid() if activation == "sigmoid" else x
        positive, negative = _cross_entropies(x, activation)
        sums = (w * t * positive, w * (1 - t) * negative, k * t * p, k * (1 - t) * p, k * t * (1 - p), k)
        out[g] = torch.stack([term.sum() for term in sums])
    return out


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
    """Gradient of the logits, added up over the groups of a plane."""
    dtype = accumulation_dtype(logits)
    out = torch.zeros(logits.shape, dtype=dtype, device=logits.device)
    for g, (b, c) in enumerate(zip(sample, channel, strict=True)):
        x, t, k = logits[b, c].to(dtype), targets[g].to(dtype), known[g].to(dtype)
        w = k if weights is None else k * weights[g].to(dtype)
        positive, negative, tp, fp, fn = grad[g, :5].to(dtype)
        slope_positive, slope_negative, slope = _slopes(x, activation)
        dice = t * (tp - fn) + (1 - t) * fp
        out[b, c] += w * (positive * t * slope_positive + negative * (1 - t) * slope_negative) + k * dice * slope
    return out.to(logits.dtype)


def _cross_entropies(x: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p and -log(1 - p); of probabilities, each is at most 100, as in torch."""
    if activation == "sigmoid":
        return F.softplus(-x), F.softplus(x)
    return -x.log().clamp(min=-100), -(1 - x).log().clamp(min=-100)


def _slopes(x: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Derivatives of -log p, of -log(1 - p) and of p with respect to x."""
    if activation == "sigmoid":
        p = x.sigmoid()
        return p - 1, p, p * (1 - p)
    # p (1 - p) is kept away from 0 as torch does, so that p = 0 and p = 1 have finite slopes
    scale = (x * (1 - x)).clamp(min=1e-12)
    return (x - 1) / scale, x / scale, torch.ones_like(x)
