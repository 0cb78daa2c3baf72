# SPDX-License-Identifier: Apache-2.0
"""The scenes of benchmarks/inputs.py on a device, of any number of channels, heads and voxels to the mm."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.inputs import CHANNEL, LESIONS, ORGAN, TUMOURS, organ_mask, tumour_depth
from rsuper_kernels import FindingGroup, Findings, Tumour


@dataclass(frozen=True)
class Inputs:
    heads: tuple[torch.Tensor, ...]
    """Logits (B, C, D, H, W), leaves, the final head first."""
    label_map: torch.Tensor
    """(B, D, H, W) uint8, ORGAN or 0."""
    labels: torch.Tensor | None
    """(B, C, D, H, W) uint8."""
    ct: torch.Tensor
    """(B, D, H, W), HU."""
    findings: Findings
    spacing: tuple[float, float, float]


def inputs(
    edge: int,
    tumours: tuple[float, ...] = TUMOURS[3],
    *,
    batch: int = 2,
    channels: int = len(LESIONS),
    heads: int = 1,
    annotated: bool = False,
    spacing: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cuda",
    seed: int = 0,
) -> Inputs:
    """One organ, and in every sample a report of `tumours` (mm) in it; the network is trained.

    annotated: every second sample has voxel labels instead of a report; the organs of the other channels have them in
    all.
    """
    found = tumour_depth(edge, tuple(diameter / spacing for diameter in tumours), "middle").to(device)
    organ = organ_mask(edge, "middle").to(device)
    shape = (batch, channels, edge, edge, edge)
    torch.manual_seed(seed)
    labels = None
    if annotated:
        labels = torch.zeros(shape, dtype=torch.uint8, device=device)
        labels[:, len(LESIONS) :] = organ
        labels[1::2, CHANNEL] = found > 0
    leaves = []
    for _ in range(heads):
        logits = torch.empty(shape, dtype=dtype, device=device).normal_().mul_(0.5).sub_(5.0)
        logits[:, CHANNEL] += (8 * (1.5 * spacing * found).sigmoid()).to(dtype)
        if labels is not None:
            logits[:, len(LESIONS) :] += (8 * organ).to(dtype)
        leaves.append(logits.requires_grad_())
    noise = torch.empty(batch, edge, edge, edge, device=device).normal_()
    reported = tuple(Tumour((diameter,), attenuation="hypo") for diameter in tumours)
    samples = range(0, batch, 2) if annotated else range(batch)
    return Inputs(
        heads=tuple(leaves),
        label_map=(organ * ORGAN).to(torch.uint8).expand(batch, -1, -1, -1).contiguous(),
        labels=labels,
        ct=50.0 - 40.0 * (found > 0) + 15.0 * noise,
        findings=Findings(
            [FindingGroup(b, CHANNEL, (ORGAN,), reported) for b in samples],
            batch,
            channels,
            lesion_channels=tuple(range(len(LESIONS))),
            annotated=frozenset((b, c) for b in range(batch) if b not in samples for c in range(len(LESIONS))),
        ),
        spacing=(spacing,) * 3,
    )
