# SPDX-License-Identifier: Apache-2.0
"""out_g = sum over x of r_g(x) * p(x), with p = sigmoid(logits[sample_g, channel_g]) and r_g the region of group g.

The region is a mask (G, D, H, W), or the voxels of a label map (B, D, H, W) whose id is one of the group's ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rsuper_kernels.checks import accumulation_dtype
from rsuper_kernels.labels import label_mask


def region_sums(
    logits: torch.Tensor,
    regions: torch.Tensor,
    sample: Sequence[int],
    channel: Sequence[int],
    ids: Sequence[int],
    id_counts: Sequence[int],
    activation: str,
) -> torch.Tensor:
    """Sums (G,) of the probabilities inside each group's region."""
    dtype = accumulation_dtype(logits)
    out = torch.zeros(len(sample), dtype=dtype, device=logits.device)
    for group, (b, c) in enumerate(zip(sample, channel, strict=True)):
        plane = logits[b, c].to(dtype)
        probability = plane.sigmoid() if activation == "sigmoid" else plane
        out[group] = (probability * _weights(regions, group, b, ids, id_counts, dtype)).sum()
    return out


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
    """Gradient of the logits: grad_g * r_g * p * (1 - p), added up over the groups of a plane."""
    dtype = accumulation_dtype(logits)
    out = torch.zeros(logits.shape, dtype=dtype, device=logits.device)
    for group, (b, c) in enumerate(zip(sample, channel, strict=True)):
        step = grad[group].to(dtype) * _weights(regions, group, b, ids, id_counts, dtype)
        if activation == "sigmoid":
            probability = logits[b, c].to(dtype).sigmoid()
            step = step * probability * (1 - probability)
        out[b, c] += step
    return out.to(logits.dtype)


def _weights(
    regions: torch.Tensor, group: int, sample: int, ids: Sequence[int], id_counts: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """Region weights (D, H, W) of one group; `id_counts` is empty when `regions` holds masks."""
    if len(id_counts) == 0:
        return regions[group].to(dtype)
    start = sum(id_counts[:group])
    return label_mask(regions[sample], ids[start : start + id_counts[group]]).to(dtype)
