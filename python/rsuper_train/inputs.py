# SPDX-License-Identifier: Apache-2.0
"""The network's input channels, of a crop or of a whole volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsuper_train.config import Input
from rsuper_train.manifest import CaseRecord, Intensity

OUTSIDE_ORGANS = 40.0
"""HU that "contrast" is measured against where no organ is: soft tissue."""
CONTRAST_UNIT = 40.0
"""HU that are one unit of "contrast"."""
MOST_CONTRAST = 4.0
"""Units at which "contrast" is cut, on both sides: bone and air say nothing about tumours."""
CT_LIKE: frozenset[Input] = frozenset({"ct", "contrast"})
"""Inputs that are a CT in other units, whose intensities augmentation may change."""


def network_input(
    ct: np.ndarray, labels: np.ndarray, record: CaseRecord, intensity: Intensity, inputs: Sequence[Input]
) -> np.ndarray:
    """The input channels of a crop, or of a whole volume.

    Args:
        ct: HU (D, H, W).
        labels: label map (D, H, W), ids of at least 0.
        record: of the case; its medians are those of the whole CT, so that a crop looks as it does in the whole.
        intensity: of the dataset.
        inputs: "ct", z-scored; "contrast", HU against the median of the voxel's organ, or OUTSIDE_ORGANS, in units of
            CONTRAST_UNIT; "organs", 1 in every organ.

    Returns:
        float32 (len(inputs), D, H, W).
    """
    image = np.empty((len(inputs), *ct.shape), np.float32)
    for plane, name in zip(image, inputs, strict=True):
        if name == "ct":
            np.subtract(ct, np.float32(intensity.mean), out=plane, dtype=np.float32)
            plane /= np.float32(intensity.sd)
        elif name == "contrast":
            np.subtract(ct, _reference(labels, record), out=plane, dtype=np.float32)
            plane /= np.float32(CONTRAST_UNIT)
            np.clip(plane, -MOST_CONTRAST, MOST_CONTRAST, out=plane)
        else:
            np.not_equal(labels, 0, out=plane, casting="unsafe")
    return image


def _reference(labels: np.ndarray, record: CaseRecord) -> np.ndarray:
    """HU of the organ at each voxel."""
    medians = np.full(max(int(labels.max(initial=0)), *record.labels, 0) + 1, OUTSIDE_ORGANS, np.float32)
    for label, extent in record.labels.items():
        if extent.median is not None:
            medians[label] = extent.median
    return medians[labels]
