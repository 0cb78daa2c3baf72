# SPDX-License-Identifier: Apache-2.0
"""Scores of predicted tumours by lesion and patient, operating points, and figures of a cohort with their intervals.

The rules of counting:

- A lesion is a component of the true mask, 26 neighbours; its diameter is that of the ball of its volume. It is found
  where the prediction covers at least HIT_SHARE of its voxels, or the one nearest to its centroid.
- A predicted component that touches no lesion is a false positive. Precision is found / (found + false positives).
- DSC and NSD are means over cases with a tumour; a case without one counts for specificity alone.

Volumes are (D, H, W), masks bool, spacing in mm.
"""

from __future__ import annotations

import itertools
import math
import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_froc_curve_data, compute_surface_dice
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

from rsuper_train.masks import box_of, component_volumes, drop_small, label

HIT_SHARE = 0.1
TOLERANCE_MM = 2.0
"""Distance within which surfaces count as the same in the normalised surface dice (NSD)."""
STRATA = {"< 1 cm": (0, 10), "1-2 cm": (10, 20), "2-4 cm": (20, 40), "≥ 4 cm": (40, math.inf), "< 2 cm": (0, 20)}
"""Diameters in mm, from and below; the last is early detection, and overlaps the first two."""
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
SMALLEST_MM3 = (0.0, 30.0, 100.0, 300.0, 500.0, 1000.0, 2000.0, 3000.0)
VOLUME_SCALE = 500.0
"""mm3 well below which a difference in volume counts little, as in the volume loss."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Truth:
    """What a "mask" or a "report" says of a patient's tumours; None: nothing. The diameter is the largest lesion's."""

    source: str
    positive: bool
    count: int | None = None
    volume_mm3: float | None = None
    diameter_mm: float | None = None


@dataclass(frozen=True)
class Lesion:
    """A true lesion; `probability` is the highest of the predicted components that touch it."""

    volume_mm3: float
    diameter_mm: float
    found: bool
    probability: float


@dataclass(frozen=True)
class MaskScore:
    """A predicted mask against a true one: DSC and NSD, None without a lesion; peaks of false ones."""

    dice: float | None
    nsd: float | None
    lesions: tuple[Lesion, ...]
    false_positives: tuple[float, ...]


@dataclass(frozen=True)
class OperatingPoint:
    """A patient is positive where a component of voxels of at least `threshold` has at least `smallest_mm3`.

    `origin` says where the point comes from, `value` is that of the criterion by which it was chosen.
    """

    threshold: float
    smallest_mm3: float
    origin: str
    value: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A figure of a cohort, how many cases it concerns, and why it or its interval is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    cases: int = 0
    reason: str = ""

    def __str__(self) -> str:
        interval = f" ({self.low:.3f} to {self.high:.3f})" if self.low is not None else ""
        return f"none: {self.reason}" if self.value is None else f"{self.value:.3f}{interval}"


def ball_diameter(volume: float) -> float:
    """Diameter (mm) of a ball, rounded so that a reported 20 mm come back as 20 mm: strata begin there."""
    return round(2 * (3 * volume / (4 * math.pi)) ** (1 / 3), 6)


def segment(probability: np.ndarray, spacing: Sequence[float], point: OperatingPoint) -> np.ndarray:
    """The mask at an operating point."""
    mask = probability >= point.threshold
    drop_small(mask, point.smallest_mm3, math.prod(spacing))
    return mask


def patient_score(probability: np.ndarray, spacing: Sequence[float], smallest_mm3: float) -> float:
    """Highest level at which a component of at least `smallest_mm3` remains; 0 where there is none."""
    voxel = math.prod(spacing)
    if smallest_mm3 <= voxel:
        return float(probability.max(initial=0))
    levels = np.unique(probability[probability > 0])
    lost = bisect_left(levels, True, key=lambda p: component_volumes(probability >= p, voxel).max() < smallest_mm3)
    return float(levels[lost - 1]) if lost else 0.0


def score_mask(
    predicted: np.ndarray, truth: np.ndarray, probability: np.ndarray, spacing: Sequence[float]
) -> MaskScore:
    """Score a predicted mask by the rules above; only the box of both masks is looked at."""
    box = box_of(predicted | truth)
    predicted, truth, probability = (np.pad(array[box], 1) for array in (predicted, truth, probability))
    components, sizes = label(predicted)
    peaks = np.append(0.0, ndimage.maximum(probability, components, range(1, len(sizes))))
    instances, _ = label(truth)
    lesions = []
    for number, where in enumerate(ndimage.find_objects(instances), start=1):
        voxels = np.argwhere(instances[where] == number)
        covered = components[where][tuple(voxels.T)]
        nearest = covered[np.square(voxels - voxels.mean(0)).sum(1).argmin()]
        found = bool(nearest or np.count_nonzero(covered) >= HIT_SHARE * len(voxels))
        volume = len(voxels) * math.prod(spacing)
        lesions.append(Lesion(volume, ball_diameter(volume), found, float(peaks[covered].max())))
    wrong = sorted(set(range(1, len(sizes))) - set(np.unique(components[truth]).tolist()))
    dice, nsd = _overlap(predicted, truth, spacing) if lesions else (None, None)
    return MaskScore(dice, nsd, tuple(lesions), tuple(peaks[wrong].tolist()))


def _overlap(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """DSC and NSD by MONAI."""
    pair = [torch.from_numpy(mask[None, None]) for mask in (predicted, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty predictions, whose NSD is 0 as it should be
        nsd = compute_surface_dice(*pair, [TOLERANCE_MM], include_background=True, spacing=tuple(spacing))
    return float(compute_dice(*(mask.float() for mask in pair), include_background=True)), float(nsd)


def choose_operating_point(
    cases: Sequence[tuple[Truth, Sequence[np.ndarray]]], default: OperatingPoint, name: str
) -> OperatingPoint:
    """The point that suits a validation set best; of equal ones the nearest to the default.

    With true masks among the cases, that of the highest Youden index of patients (sensitivity + specificity - 1). With
    reports alone, that whose masks disagree least with them in volume and count. The default where neither can be.

    Args:
        cases: of each, the truth and, the volumes of its components at each of THRESHOLDS, in mm3, after a 0.
        default: what is taken without a choice.
        name: of the validation set.
    """
    positive = np.array([truth.positive for truth, _ in cases], bool)
    from_reports = all(truth.source == "report" for truth, _ in cases)
    if not positive.any() or (positive.all() and not from_reports):
        lacking = "without" if positive.any() else "with"
        return replace(default, origin=f"{default.origin}: {name} has no case {lacking} a tumour")

    def badness(row: int, smallest: float) -> float:
        kept = [volumes[row][(volumes[row] > 0) & (volumes[row] >= smallest)] for _, volumes in cases]
        if from_reports:
            return float(np.mean([_disagreement(some, truth) for some, (truth, _) in zip(kept, cases, strict=True)]))
        called = np.array([len(some) > 0 for some in kept])
        return float(1 - called[positive].mean() + called[~positive].mean())

    grid = itertools.product(enumerate(THRESHOLDS), SMALLEST_MM3)
    worst, _, smallest, threshold = min((badness(i, v), abs(t - default.threshold), v, t) for (i, t), v in grid)
    what = "least disagreement with reports in volume and count" if from_reports else "highest Youden index of patients"
    origin = f"chosen on {len(cases)} cases of {name}: {what}"
    return OperatingPoint(threshold, smallest, origin, worst if from_reports else 1 - worst)


def _disagreement(volumes: np.ndarray, truth: Truth) -> float:
    """Mean relative error of tumour volume and count, as far as the report gives them, in [0, 1)."""
    volume, count = float(volumes.sum()), len(volumes)
    true_volume = volume if truth.volume_mm3 is None else truth.volume_mm3
    true_count = max(count, int(truth.positive)) if truth.count is None else truth.count
    error = abs(volume - true_volume) / (volume + true_volume + VOLUME_SCALE)
    return (error + abs(count - true_count) / (count + true_count + 1)) / 2


def ratio(parts: Iterable[float], wholes: Iterable[float], seed: int) -> Estimate:
    """Sum of `parts` over sum of `wholes`, one of each a case; cases whose whole is 0 are not concerned."""
    pairs = np.array([(part, whole) for part, whole in zip(parts, wholes, strict=True) if whole > 0], float)
    if not len(pairs):
        return Estimate(None, reason="no case that it concerns")
    return _estimate(tuple(pairs.T), lambda part, whole, axis=-1: part.sum(axis) / whole.sum(axis), seed, paired=True)


def mean(values: Sequence[float | None], seed: int) -> Estimate:
    """Mean over cases; None does not count."""
    known = [float(value) for value in values if value is not None]
    return ratio(known, [1] * len(known), seed)


def area_under_curve(positive: np.ndarray, scores: np.ndarray, seed: int) -> Estimate:
    """AUC of patients' scores; cases with and without tumours are resampled apart, so that there are always both."""
    if positive.all() or not positive.any():
        return Estimate(None, cases=len(positive), reason=f"no case {'without' if positive.any() else 'with'} a tumour")

    def auc(sick: np.ndarray, well: np.ndarray) -> float:
        return float(roc_auc_score(np.repeat([1, 0], [len(sick), len(well)]), np.concatenate([sick, well])))

    return _estimate((scores[positive], scores[~positive]), auc, seed, paired=False)


def _estimate(samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], seed: int, paired: bool) -> Estimate:
    """The statistic with its 95 % interval, BCa bootstrap over cases, where there can be one."""
    value = float(statistic(*samples))
    cases = len(samples[0]) if paired else sum(map(len, samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, cases=cases, reason="too few cases for an interval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about degenerate resamples, which are looked for below
        random = np.random.default_rng(seed)
        result = stats.bootstrap(
            samples, statistic, n_resamples=RESAMPLES, paired=paired, vectorized=paired, random_state=random
        )
    low, high = map(float, result.confidence_interval)
    if not math.isfinite(low + high) or np.ptp(result.bootstrap_distribution) < 1e-12:
        return Estimate(value, cases=cases, reason="no interval: all resamples agree")
    return Estimate(value, low, high, cases)


def froc(scores: Sequence[MaskScore]) -> dict[str, list[float]] | None:
    """False positives a case and sensitivity of lesions, from few detections to all; None without a lesion."""
    found = [lesion.probability if lesion.found else 0.0 for score in scores for lesion in score.lesions]
    if not found:
        return None
    # the 0 stands for what is never detected: MONAI leaves out the lowest level
    wrong = np.array([0.0, *(peak for score in scores for peak in score.false_positives)])
    rate, sensitivity = compute_froc_curve_data(wrong, np.array(found), len(found), len(scores))
    return {"false_positives_per_case": rate[::-1].tolist(), "sensitivity": sensitivity[::-1].tolist()}
