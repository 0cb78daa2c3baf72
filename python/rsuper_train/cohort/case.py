# SPDX-License-Identifier: Apache-2.0
"""A synthetic case: what training may see, and apart from it what is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsuper_train.reports.generator import write_report
from rsuper_train.reports.schema import Place, Report, Tumour


@dataclass(frozen=True)
class Case:
    """What a training set holds: no lesion mask. Arrays are (D, H, W), spacing in mm in the same order."""

    case_id: str
    ct: np.ndarray  # float32, HU
    labels: np.ndarray  # uint8, organ labels
    spacing: tuple[float, float, float]
    report: str


@dataclass(frozen=True)
class Truth:
    """What evaluation alone may see: lesion instances (0 = none, i = i-th tumour), the tumours they are, and what the
    report says of them, in its own order."""

    case_id: str
    instances: np.ndarray  # uint8 (D, H, W)
    tumours: tuple[Tumour, ...]
    report: Report

    @property
    def mask(self) -> np.ndarray:
        """All lesions together, bool (D, H, W)."""
        return self.instances > 0


def tell(
    case_id: str,
    ct: np.ndarray,
    labels: np.ndarray,
    spacing: tuple[float, float, float],
    instances: np.ndarray,
    tumours: Sequence[Tumour],
    places: Sequence[Place],
    rng: np.random.Generator,
) -> tuple[Case, Truth]:
    """Write the report of the tumours and put the case together; `places` without a tumour are said to be free."""
    wording = rng.spawn(1)[0]  # so that no change of the wording changes the images
    written = write_report(tumours, wording, places, case_id=case_id)
    case = Case(case_id, ct, labels, spacing, written.text)
    return case, Truth(case_id, instances, tuple(tumours), written.report)
