# SPDX-License-Identifier: Apache-2.0
"""Seeded inputs of the benchmarks: organs, logits as a trained network gives them, and findings, at 1 mm spacing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rsuper_kernels import FindingGroup, Findings, Tumour

SPACING = (1.0, 1.0, 1.0)
DIAMETERS = (25.0, 17.0, 11.0)


@dataclass
class Scene:
    logits: torch.Tensor
    """(B, C, D, H, W)"""
    label_map: torch.Tensor
    """(B, D, H, W), 1 = organ"""
    ct: torch.Tensor
    """(B, D, H, W), HU"""
    findings: Findings


def scene(edge: int = 64, batch: int = 2, channels: int = 3, seed: int = 0) -> Scene:
    """An ellipsoidal organ in about 15 % of the patch, with three reported and one predicted tumour a sample."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, edge)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    organ = (z**2 + y**2 + (x / 1.1) ** 2) < 0.45
    tumour = ((z - 0.2) ** 2 + (y + 0.1) ** 2 + x**2) * edge**2 / 4 < (DIAMETERS[0] / 2) ** 2
    logits = torch.where(tumour, 3.0, -5.0) + 0.5 * torch.randn(batch, channels, edge, edge, edge, generator=generator)
    ct = 50.0 - 40.0 * tumour + 15.0 * torch.randn(batch, edge, edge, edge, generator=generator)
    tumours = tuple(Tumour((diameter,), attenuation="hypo") for diameter in DIAMETERS)
    findings = Findings([FindingGroup(b, 1, (1,), tumours) for b in range(batch)], batch, channels)
    return Scene(logits, organ.long().expand(batch, -1, -1, -1).contiguous(), ct, findings)
