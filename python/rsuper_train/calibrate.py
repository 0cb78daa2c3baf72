# SPDX-License-Identifier: Apache-2.0
"""Choosing the operating point from reports: the threshold and smallest component that agree best with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsuper_train.data import Sample
from rsuper_train.demo_engine import connected, segment

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
SMALLEST_MM3 = (500.0, 1000.0, 1500.0, 2000.0, 3000.0)
VOLUME_SCALE = 500.0
"""mm3 well below which a difference in volume counts little, as in the volume loss."""


@dataclass(frozen=True)
class OperatingPoint:
    """How probabilities become a mask."""

    threshold: float = 0.5
    smallest_mm3: float = 1000.0
    disagreement: float = float("nan")  # with the reports it was chosen on

    def apply(self, probability: np.ndarray, sample: Sample) -> np.ndarray:
        """Predicted mask, bool (D, H, W)."""
        return segment(probability, self.threshold, round(self.smallest_mm3 / float(np.prod(sample.spacing))))


def choose_operating_point(probabilities: Sequence[np.ndarray], samples: Sequence[Sample]) -> OperatingPoint:
    """The threshold and smallest component whose masks disagree least with the samples' reports."""
    if not samples:
        return OperatingPoint()
    points = [
        OperatingPoint(threshold, smallest, float(error))
        for threshold in THRESHOLDS
        for smallest, error in zip(
            SMALLEST_MM3,
            np.mean([_disagreement(p > threshold, s) for p, s in zip(probabilities, samples, strict=True)], axis=0),
            strict=True,
        )
    ]
    return min(points, key=lambda point: point.disagreement)


def _disagreement(mask: np.ndarray, sample: Sample) -> np.ndarray:
    """Mean relative error of tumour volume and count over the report's places, in [0, 1), for each SMALLEST_MM3."""
    components, count = connected(mask)
    voxel, labels = float(np.prod(sample.spacing)), sample.labels.numpy()
    whole = voxel * np.bincount(components.ravel(), minlength=count + 1)[1:]
    errors = np.zeros(len(SMALLEST_MM3))
    for group in sample.findings.groups:
        here = components[np.isin(labels, np.array(group.region, dtype=int))]
        volumes = voxel * np.bincount(here, minlength=count + 1)[1:]
        for i, smallest in enumerate(SMALLEST_MM3):
            kept = volumes[whole >= smallest]
            volume, tumours = kept.sum(), np.count_nonzero(kept)
            errors[i] += abs(volume - group.volume) / (volume + group.volume + VOLUME_SCALE) / 2
            errors[i] += abs(tumours - len(group.tumours)) / (tumours + len(group.tumours) + 1) / 2
    return errors / max(len(sample.findings.groups), 1)
