# SPDX-License-Identifier: Apache-2.0
"""An anatomy, and the synthetic case that it becomes: what training may see, and apart from it what is true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsuper_train.axes import Spacing
from rsuper_train.reports.schema import Report, Tumour


@dataclass(frozen=True)
class Anatomy:
    """A CT and its organ labels, both (D, H, W): slices run to the head, rows to anterior, columns to patient right."""

    ct: np.ndarray  # float32, HU
    labels: np.ndarray  # uint8
    spacing: Spacing  # mm, (D, H, W)


@dataclass(frozen=True)
class Case(Anatomy):
    """What a training set holds: no lesion mask, and the text of a report."""

    case_id: str
    report: str


@dataclass(frozen=True)
class Truth:
    """What evaluation alone may see: the lesions, and the contents of the report in its own order."""

    instances: np.ndarray  # uint8 (D, H, W), 0 = none, i = i-th tumour
    tumours: tuple[Tumour, ...]
    report: Report
