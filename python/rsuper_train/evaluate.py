# SPDX-License-Identifier: Apache-2.0
"""Scores of predicted masks against hidden lesion masks.

Rule for counting: a lesion is found if the prediction covers at least 10 % of its voxels or the voxel nearest to its
centroid. A false positive is a predicted component (26-neighbourhood) that touches no lesion at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice
from scipy import ndimage

HIT_SHARE = 0.1
"""Share of a lesion that a prediction must cover for the lesion to count as found."""


@dataclass(frozen=True)
class CaseScore:
    """Scores of one case; volumes in mm3."""

    case_id: str
    dice: float | None  # None where there is no lesion: nothing to overlap with
    lesions: int
    found: int
    false_positives: int
    true_volume: float
    predicted_volume: float


@dataclass(frozen=True)
class Summary:
    """Scores of a cohort."""

    dice: float  # mean over cases with a lesion
    dice_with_empty: float  # over all cases; a case without lesion counts 1 if nothing is predicted, else 0
    sensitivity: float  # found lesions / lesions
    lesions: int
    false_positives_per_case: float
    volume_error_mm3: float  # mean over cases of |predicted - true|
    volume_error_percent: float  # median over cases with a lesion of |predicted - true| / true


def score_case(case_id: str, predicted: np.ndarray, instances: np.ndarray, spacing: Sequence[float]) -> CaseScore:
    """Score a predicted mask (bool) against lesion instances (0 = none, i = i-th lesion), both (D, H, W)."""
    if predicted.shape != instances.shape:
        raise ValueError(f"{case_id}: the prediction has shape {predicted.shape}, the truth {instances.shape}")
    predicted, truth = predicted.astype(bool), instances > 0
    components, count = ndimage.label(predicted, structure=np.ones((3, 3, 3)))
    touching = np.unique(components[truth & predicted])
    ids = np.unique(instances[truth])
    voxel = float(np.prod(spacing))
    return CaseScore(
        case_id=case_id,
        dice=_dice(predicted, truth) if truth.any() else None,
        lesions=len(ids),
        found=sum(_is_found(predicted, instances == i) for i in ids),
        false_positives=count - len(touching),
        true_volume=voxel * int(truth.sum()),
        predicted_volume=voxel * int(predicted.sum()),
    )


def summarise(scores: Sequence[CaseScore]) -> Summary:
    """Mean scores over the cases; NaN where no case has a lesion."""
    if not scores:
        raise ValueError("no case to summarise")
    diseased = [s for s in scores if s.dice is not None]
    lesions = sum(s.lesions for s in scores)
    empty = [float(s.predicted_volume == 0) if s.dice is None else s.dice for s in scores]
    relative = [100 * abs(s.predicted_volume - s.true_volume) / s.true_volume for s in diseased]
    return Summary(
        dice=float(np.mean([s.dice for s in diseased])) if diseased else float("nan"),
        dice_with_empty=float(np.mean(empty)),
        sensitivity=sum(s.found for s in scores) / lesions if lesions else float("nan"),
        lesions=lesions,
        false_positives_per_case=sum(s.false_positives for s in scores) / len(scores),
        volume_error_mm3=float(np.mean([abs(s.predicted_volume - s.true_volume) for s in scores])),
        volume_error_percent=float(np.median(relative)) if relative else float("nan"),
    )


def _dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient by MONAI."""
    masks = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (predicted, truth))
    return float(compute_dice(*masks, include_background=True))


def _is_found(predicted: np.ndarray, lesion: np.ndarray) -> bool:
    """The counting rule stated at the top of this file."""
    voxels = np.argwhere(lesion)
    nearest = voxels[np.square(voxels - voxels.mean(0)).sum(1).argmin()]
    return bool(predicted[tuple(nearest)] or (predicted & lesion).sum() >= HIT_SHARE * len(voxels))
