# SPDX-License-Identifier: Apache-2.0
"""Seeded inputs of the benchmarks: organs, reports and logits of a trained or an untrained network, at 1 mm spacing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from rsuper_kernels import FindingGroup, Findings, Tumour

SPACING = (1.0, 1.0, 1.0)
CHANNEL, ORGAN = 1, 1
"""The channel in which every sample has its tumours, and the organ's id in the label map."""
LESIONS = ("kidney_lesion", "liver_lesion", "pancreas_lesion")
# mm, by the number of tumours in the figures
TUMOURS = {1: (25.0,), 3: (25.0, 17.0, 11.0), 10: (25.0, 17.0, 13.0, 11.0, 9.0, 9.0, 7.0, 7.0, 5.0, 5.0)}
BIG_TUMOURS = (61.0, 41.0, 25.0)
DIAMETERS = TUMOURS[3]
# semi-axes in half patches: S+ of the middle one is a sixth of a patch of 128 mm, which is what kidneys and pancreas
# take; the large one, a liver of 15 % of the patch with an S+ of 40 %, has room for 61, 41 and 25 mm
ORGANS = {"middle": (0.375, 0.54, 0.43), "large": (0.57, 0.57, 0.9)}


@dataclass(frozen=True)
class Scene:
    logits: torch.Tensor
    """(B, C, D, H, W)"""
    label_map: torch.Tensor
    """(B, D, H, W) uint8, ORGAN or 0"""
    ct: torch.Tensor
    """(B, D, H, W), HU"""
    findings: Findings
    tumours: tuple[float, ...]
    """Diameters in mm, the same in each sample."""

    @property
    def masks(self) -> torch.Tensor:
        """The organ as masks (B, C, D, H, W) uint8, on the planes with tumours."""
        masks = torch.zeros(self.logits.shape, dtype=torch.uint8)
        masks[:, CHANNEL] = self.label_map == ORGAN
        return masks

    @property
    def mask_findings(self) -> Findings:
        """The findings for regions that come as masks."""
        return _findings(self.tumours, self.logits.shape[0], self.logits.shape[1], None)


def scene(
    tumours: tuple[float, ...] = DIAMETERS,
    *,
    edge: int = 64,
    batch: int = 2,
    organ: str = "middle",
    trained: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Scene:
    """One organ of `ORGANS`; each sample's report places `tumours` there, in one of three lesion channels.

    A trained network sees every reported tumour and is sure of the rest, an untrained one knows nothing (p about 0.5).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(LESIONS), edge, edge, edge)
    found = tumour_depth(edge, tumours, organ)
    noise = torch.empty(shape).normal_(generator=generator)
    if trained:
        logits = noise.mul_(0.5).sub_(5.0)
        # an edge some 4 mm wide, from p = 0.95 to 0.01
        logits[:, CHANNEL] += 8 * (1.5 * found).sigmoid()
    else:
        logits = noise.mul_(0.1)
    ct = 50.0 - 40.0 * (found > 0) + 15.0 * torch.empty(batch, edge, edge, edge).normal_(generator=generator)
    label_map = (organ_mask(edge, organ) * ORGAN).to(torch.uint8).expand(batch, -1, -1, -1).contiguous()
    findings = _findings(tumours, batch, len(LESIONS), (ORGAN,))
    return Scene(logits.to(dtype), label_map, ct, findings, tumours)


def _findings(tumours: tuple[float, ...], batch: int, channels: int, region: tuple[int, ...] | None) -> Findings:
    reported = tuple(Tumour((diameter,), attenuation="hypo") for diameter in tumours)
    return Findings([FindingGroup(b, CHANNEL, region, reported) for b in range(batch)], batch, channels)


@lru_cache(maxsize=4)
def organ_mask(edge: int, organ: str) -> torch.Tensor:
    axis = torch.linspace(-1, 1, edge)
    z, y, x = (axis / semi for axis, semi in zip((axis,) * 3, ORGANS[organ], strict=True))
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 1


@lru_cache(maxsize=4)
def tumour_depth(edge: int, tumours: tuple[float, ...], organ: str) -> torch.Tensor:
    """How deep (mm) each voxel lies in its nearest tumour, (D, H, W); negative outside."""
    axis = torch.arange(edge, dtype=torch.float32)
    depth = torch.full((edge, edge, edge), -math.inf)
    for (z, y, x), diameter in zip(_centres(edge, tumours, organ), tumours, strict=True):
        squared = (axis - z)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - x) ** 2
        depth = torch.maximum(depth, diameter / 2 - squared.sqrt())
    return depth


def _centres(edge: int, tumours: tuple[float, ...], organ: str) -> list[np.ndarray]:
    """Places in the organ, from large to small: inside it and apart where there is room, else as nearly so as can be.

    Of such places the outermost is taken, which leaves room for the rest.
    """
    coarse = organ_mask(edge, organ)[::2, ::2, ::2].numpy()
    places = 2.0 * np.argwhere(coarse)
    inside = 2.0 * distance_transform_edt(coarse)[coarse]
    outwards = np.linalg.norm(places - edge / 2, axis=1)
    centres: list[np.ndarray] = []
    clear = np.full(len(places), np.inf)
    for diameter in tumours:
        missing = np.maximum(diameter / 2 - np.minimum(inside, clear), 0)
        centres.append(places[np.argmax(outwards - 100 * missing)])
        clear = np.minimum(clear, np.linalg.norm(places - centres[-1], axis=1) - diameter / 2)
    return centres


@dataclass(frozen=True)
class CompatVolume:
    """What `compat.volume_loss_basic` takes, from a scene: float32 masks, as the public data loader gives them."""

    chosen: torch.Tensor
    volumes: torch.Tensor
    labels: torch.Tensor
    unknown: torch.Tensor
    classes: list[str]


def compat_volume(inputs: Scene) -> CompatVolume:
    chosen = inputs.masks.float()
    volumes = torch.tensor([[math.pi / 6 * d**3 for d in inputs.tumours]] * len(chosen))
    return CompatVolume(chosen, volumes, torch.zeros_like(chosen), chosen.clone(), list(LESIONS))


@dataclass(frozen=True)
class TotalInputs:
    """What `compat.calculate_loss` takes: two heads of 42 classes, a report sample and one annotated per voxel."""

    heads: list[torch.Tensor]
    label: torch.Tensor
    unknown: torch.Tensor
    chosen: torch.Tensor
    volumes: torch.Tensor
    diameters: torch.Tensor
    classes: list[str]
    args: SimpleNamespace


def total_inputs(edge: int = 96, classes: int = 42, seed: int = 0) -> TotalInputs:
    """Sample 0: a report of three liver tumours. Sample 1: annotated, with one liver lesion. uint8 masks."""
    names = sorted(LESIONS) + [f"organ_{index:02d}" for index in range(classes - len(LESIONS))]
    generator = torch.Generator().manual_seed(seed)
    organ, found = organ_mask(edge, "middle"), tumour_depth(edge, DIAMETERS, "middle")
    shape = (2, classes, edge, edge, edge)
    label, unknown, chosen = (torch.zeros(shape, dtype=torch.uint8) for _ in range(3))
    for channel in range(len(LESIONS), classes):
        # stand-ins for the other organs: the one we have, elsewhere
        label[:, channel] = organ.roll((3 * channel, 5 * channel), (0, 1))
    chosen[0, CHANNEL] = unknown[0, CHANNEL] = organ
    label[1, CHANNEL] = found > 0
    heads = []
    for _ in range(2):
        logits = torch.empty(shape).normal_(generator=generator).mul_(0.5).sub_(5.0).add_(label, alpha=8.0)
        logits[0, CHANNEL] += 8 * (1.5 * found).sigmoid()
        heads.append(logits)
    volumes, diameters = torch.zeros(2, 10), torch.zeros(2, 10, 3)
    sizes = torch.tensor(DIAMETERS)
    volumes[0, : len(sizes)] = math.pi / 6 * sizes**3
    diameters[0, : len(sizes)] = sizes[:, None]
    return TotalInputs(heads, label, unknown, chosen, volumes, diameters, names, _arguments())


def _arguments() -> SimpleNamespace:
    """The published command line: ball loss on the final head, volume loss on the other."""
    return SimpleNamespace(
        loss="ball_dice_last",
        aux_weight=[0.5, 0.5],
        seg_loss=1.0,
        report_volume_loss_basic=0.1,
        volume_loss_tolerance=0.1,
        ball_bce_weight=1.0,
        ball_dice_weight=1.0,
        ball_volume_margin=0.2,
        stardard_ce_ball=False,
        multi_ch_tumor=False,
    )
