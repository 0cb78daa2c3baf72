# SPDX-License-Identifier: Apache-2.0
"""From a case (CT, organ labels, report) to what the network and the losses take, and back to the case's voxel grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from rsuper_kernels import Findings
from rsuper_train.cohort.case import Case
from rsuper_train.cohort.real_ct import ORGAN_LABELS
from rsuper_train.reports.findings import to_findings
from rsuper_train.reports.masks import LabelSet
from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.schema import Report

PATCH = (24, 72, 104)
"""Voxels of the window around the organs that the network sees, (D, H, W)."""
LABELS = LabelSet("organs", ORGAN_LABELS)
HU_SCALE = 40.0
"""HU that count as one unit of network input."""


@dataclass(frozen=True)
class Sample:
    """A case made ready: tensors over the window around the organs."""

    case_id: str
    image: torch.Tensor  # float32 (2, D, H, W): CT relative to each organ's median, organ mask
    ct: torch.Tensor  # float32 (1, D, H, W), HU
    labels: torch.Tensor  # int64 (D, H, W), organs of ORGAN_LABELS alone, 0 elsewhere
    report: Report  # what was read from the text
    findings: Findings
    spacing: tuple[float, float, float]  # mm
    window: tuple[slice, slice, slice]  # where the window lies in the case


def prepare(case: Case) -> Sample:
    """Crop to the organs, normalise the CT and read the report."""
    labels = np.where(np.isin(case.labels, list(ORGAN_LABELS.values())), case.labels, 0)
    window = _organ_window(labels)
    ct, labels = case.ct[window], labels[window].astype(np.int64)
    report = _extractor().extract(case.case_id, case.report)
    image = np.stack([relative_ct(ct, labels), labels > 0]).astype(np.float32)
    return Sample(
        case_id=case.case_id,
        image=torch.from_numpy(image),
        ct=torch.from_numpy(ct[None].copy()),
        labels=torch.from_numpy(labels),
        report=report,
        findings=findings_of(report),
        spacing=case.spacing,
        window=window,
    )


def findings_of(report: Report) -> Findings:
    """Findings of one sample with the single channel "lesion"."""
    return to_findings([report], LABELS, channels=("lesion",)).findings


@cache
def _extractor() -> RulesExtractor:
    return RulesExtractor()


def relative_ct(ct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """CT minus the median of the voxel's organ (40 HU outside the organs), in units of HU_SCALE, clipped to +-4."""
    reference = np.full(ct.shape, 40.0, np.float32)
    for organ in np.unique(labels[labels > 0]):
        reference[labels == organ] = np.median(ct[labels == organ])
    return np.clip((ct - reference) / HU_SCALE, -4.0, 4.0)


def _organ_window(labels: np.ndarray) -> tuple[slice, slice, slice]:
    """Window of PATCH voxels centred on the organs and inside the case."""
    found = np.argwhere(labels > 0)
    if not found.size:
        raise ValueError("the case holds none of the organs the reports speak about")
    centre = (found.min(0) + found.max(0) + 1) // 2
    start = np.clip(centre - np.array(PATCH) // 2, 0, np.array(labels.shape) - PATCH)
    z, y, x = (slice(int(a), int(a) + size) for a, size in zip(start, PATCH, strict=True))
    return z, y, x


def to_case_grid(values: np.ndarray, sample: Sample, shape: tuple[int, ...]) -> np.ndarray:
    """Put values of the window back on the case's grid (D, H, W), zeros elsewhere."""
    whole = np.zeros(shape, values.dtype)
    whole[sample.window] = values
    return whole


@dataclass(frozen=True)
class Batch:
    """Samples stacked; all of one spacing."""

    image: torch.Tensor  # (B, 2, D, H, W)
    ct: torch.Tensor  # (B, 1, D, H, W), HU
    labels: torch.Tensor  # (B, D, H, W)
    findings: Findings
    spacing: tuple[float, ...]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples; their findings are joined."""
    return Batch(
        image=torch.stack([s.image for s in samples]),
        ct=torch.stack([s.ct for s in samples]),
        labels=torch.stack([s.labels for s in samples]),
        findings=Findings.collate([s.findings for s in samples]),
        spacing=samples[0].spacing,
    )


def augment(batch: Batch, rng: np.random.Generator) -> Batch:
    """Flip and transpose in plane (the batch as a whole), scale, shift and noise the image (each sample by itself)."""
    flips = [axis for axis in (-3, -2, -1) if rng.random() < 0.5]
    transpose = rng.random() < 0.5

    def turned(values: torch.Tensor) -> torch.Tensor:
        values = values.flip(flips)
        return (values.transpose(-1, -2) if transpose else values).contiguous()

    image, count = turned(batch.image), len(batch.image)
    scale, shift, noise = (
        torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))
        for low, high in ((0.8, 1.2), (-0.2, 0.2), (0.0, 0.35))
    )
    static = torch.from_numpy(rng.standard_normal(image[:, 0].shape, dtype=np.float32))
    image[:, 0] = image[:, 0] * scale + shift + noise * static
    depth, height, width = batch.spacing
    spacing = (depth, width, height) if transpose else batch.spacing
    return Batch(image, turned(batch.ct), turned(batch.labels), batch.findings, spacing)
