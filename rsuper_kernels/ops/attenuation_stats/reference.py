# SPDX-License-Identifier: Apache-2.0
"""Weighted statistics of the CT under two soft masks of each group, with p = sigmoid(logits[sample_g, channel_g]):

tumour m_t = p * tumour_g       organ m_o = (1 - p * tumour_g) * organ_g
weight = sum m      mean = sum m ct / (weight + eps)      sd = sqrt(sum m (ct - mean)^2 / (weight + eps))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.checks import accumulation_dtype


def attenuation_stats(
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> torch.Tensor:
    """Statistics (G, 2, 3): of tumour and organ, the weight in voxels, the mean and the sd in the unit of the CT."""
    dtype = accumulation_dtype(logits)
    out = torch.zeros(len(sample), 2, 3, dtype=dtype, device=logits.device)
    for g, (b, c) in enumerate(zip(sample, channel, strict=True)):
        values = ct[b].to(dtype)
        m_tumour, m_organ, _ = _masks(logits[b, c].to(dtype), tumour[g].to(dtype), organ[g].to(dtype), activation)
        out[g, 0] = torch.stack(_moments(values, m_tumour, eps))
        out[g, 1] = torch.stack(_moments(values, m_organ, eps))
    return out


def attenuation_stats_backward(
    grad: torch.Tensor,
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the logits, added up over the groups of a plane, and of the organ masks."""
    dtype = accumulation_dtype(logits)
    grad_logits = torch.zeros(logits.shape, dtype=dtype, device=logits.device)
    grad_organ = torch.zeros(organ.shape, dtype=dtype, device=organ.device)
    for g, (b, c) in enumerate(zip(sample, channel, strict=True)):
        values, t, o = ct[b].to(dtype), tumour[g].to(dtype), organ[g].to(dtype)
        m_tumour, m_organ, slope = _masks(logits[b, c].to(dtype), t, o, activation)
        grad_t = _moments_backward(grad[g, 0].to(dtype), values, m_tumour, eps)
        grad_o = _moments_backward(grad[g, 1].to(dtype), values, m_organ, eps)
        grad_logits[b, c] += (grad_t - grad_o * o) * t * slope
        grad_organ[g] = grad_o * (1 - m_tumour)
    organ_dtype = organ.dtype if organ.is_floating_point() else dtype
    return grad_logits.to(logits.dtype), grad_organ.to(organ_dtype)


def _masks(
    x: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, activation: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Soft masks of tumour and organ, and dp / dx."""
    p = x.sigmoid() if activation == "sigmoid" else x
    slope = p * (1 - p) if activation == "sigmoid" else torch.ones_like(x)
    m_tumour = p * tumour
    return m_tumour, (1 - m_tumour) * organ, slope


def _moments(values: torch.Tensor, mask: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = mask.sum()
    mean = (mask * values).sum() / (weight + eps)
    # two passes: the squares of HU around 1000 would cancel in one
    variance = (mask * (values - mean) ** 2).sum() / (weight + eps)
    return weight, mean, variance.sqrt()


def _moments_backward(grad: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, eps: float) -> torch.Tensor:
    """Gradient of the mask; with n = weight + eps, d mean = (v - mean) / n and d var = ((v - mean)^2 - var) / n."""
    weight, mean, sd = _moments(values, mask, eps)
    total = weight + eps
    centred = values - mean
    mean_slope = centred / total
    # zero but for eps: the weighted mean is a minimum of the variance
    residual = (mask * centred).sum() / total
    variance_slope = (centred**2 - sd**2) / total - 2 * residual * mean_slope
    # at sd = 0 the root has no slope; a constant CT asks for no change
    sd_slope = torch.where(sd > 0, variance_slope / (2 * sd), torch.zeros_like(variance_slope))
    return grad[0] + grad[1] * mean_slope + grad[2] * sd_slope
