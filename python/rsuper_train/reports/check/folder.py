# SPDX-License-Identifier: Apache-2.0
"""How large the CTs and organs in a folder of cases are.

Of a CT only the header is read, masks are read one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rsuper_train.layout import CaseError, CaseFiles, case_files
from rsuper_train.nifti import Grid, Image, OtherGrid
from rsuper_train.processes import each_case
from rsuper_train.reports.check.problems import Extent, measure_mask


@dataclass(frozen=True)
class Request:
    """One case to measure.

    Args:
        folder: of the case.
        organs: which masks, as sets of classes whose union is measured.
        label_ids: class -> id in label maps.
    """

    folder: Path
    organs: tuple[frozenset[str], ...]
    label_ids: Mapping[str, int]


@dataclass
class Measured:
    """What was found in a case.

    Args:
        field_of_view: mm along each axis of the CT; empty where there is no readable CT.
        organs: classes -> extent of their union; those without any mask are missing.
        troubles: (kind, message) of what could not be read or does not fit.
    """

    field_of_view: tuple[float, ...] = ()
    organs: dict[frozenset[str], Extent] = field(default_factory=dict)
    troubles: list[tuple[str, str]] = field(default_factory=list)


def measure_cases(requests: Mapping[str, Request], workers: int) -> Iterator[tuple[str, Measured]]:
    """Measure the cases in `workers` processes; yields (case, what was found) as they are done; see `each_case`."""
    return each_case(measure_case, requests, workers)


def measure_case(request: Request) -> Measured:
    """Measure one case; whatever is wrong with its files ends up in `troubles`."""
    found, files = Measured(), case_files(request.folder)
    if files.ct is None:
        found.troubles.append(("no CT", f"{request.folder}: expected ct.nii.gz"))
        return found
    try:
        grid = Image(files.ct).grid
    except CaseError as error:
        found.troubles.append(("unreadable", str(error)))
        return found
    found.field_of_view = tuple(n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    if request.organs:
        _measure_masks(request, files, grid, found)
    return found


def _measure_masks(request: Request, files: CaseFiles, grid: Grid, found: Measured) -> None:
    values = None
    if files.label_map and (values := _read(files.label_map, grid, found)) is None:
        return
    for organ in request.organs:
        if values is None:
            mask = _union_of_files(files, organ, grid, found)
        else:
            ids = [request.label_ids[name] for name in organ if name in request.label_ids]
            mask = np.isin(values, ids) if ids else None
        if mask is not None:
            found.organs[organ] = measure_mask(mask, grid.spacing)


def _union_of_files(files: CaseFiles, classes: frozenset[str], grid: Grid, found: Measured) -> np.ndarray | None:
    """Union of the classes' masks, None where there is none; one file is held at a time."""
    union = None
    for name in sorted(classes & files.organs.keys()):
        if (values := _read(files.organs[name], grid, found)) is None:
            continue
        mask = values > 0
        union = mask if union is None else np.logical_or(union, mask, out=union)
    return union


def _read(path: Path, grid: Grid, found: Measured) -> np.ndarray | None:
    """Voxels of a mask or label map; None, and a trouble, where they cannot be had."""
    try:
        return Image(path, grid).read()
    except CaseError as error:
        found.troubles.append(("grids differ" if isinstance(error, OtherGrid) else "unreadable", str(error)))
        return None
