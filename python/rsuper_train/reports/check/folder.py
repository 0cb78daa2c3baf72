# SPDX-License-Identifier: Apache-2.0
"""A folder of cases: which there are, and how large a CT and the organs in it are.

A case is a folder with `ct.nii.gz` and either one mask a class, `segmentations/<class>.nii.gz`, or one label map,
`labels.nii.gz` or `segmentation.nii.gz`. Of the CT only the header is read, masks are read one at a time.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from rsuper_train.reports.check.problems import Extent, measure_mask

SUFFIXES = (".nii.gz", ".nii")
MASK_FOLDERS = ("segmentations", "predictions")
LABEL_MAPS = ("labels", "segmentation")


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


@dataclass(frozen=True)
class Grid:
    """Voxels along each axis, mm between them, and where they lie in the patient."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    affine: np.ndarray

    def is_same(self, other: Grid) -> bool:
        """Whether no corner of the volume is displaced by more than a voxel."""
        if self.shape != other.shape:
            return False
        corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in self.shape), 1]
        moved = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1)
        return bool((moved <= max(self.spacing)).all())

    def __str__(self) -> str:
        voxels, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{step:.3g}" for step in self.spacing)
        origin = ", ".join(f"{mm:.0f}" for mm in self.affine[:3, 3])
        return f"{voxels} voxels of {spacing} mm, {''.join(map(str, nib.aff2axcodes(self.affine)))} from ({origin})"


def find_cases(folder: Path) -> dict[str, Path]:
    """Folders of the cases by name, hidden ones left out.

    Raises:
        ValueError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of cases, <case>/ct.nii.gz and <case>/segmentations/*.nii.gz")
    with os.scandir(folder) as entries:
        cases = {entry.name: Path(entry.path) for entry in entries if entry.is_dir() and entry.name[0] not in "._"}
    if not cases:
        raise ValueError(f"{folder}: no case in it; expected folders with ct.nii.gz and masks")
    return cases


def measure_cases(requests: Mapping[str, Request], workers: int) -> Iterator[tuple[str, Measured]]:
    """Measure the cases in `workers` processes; yields (case, what was found) as they are done.

    Raises:
        ValueError: a process was killed, most often for want of memory.
    """
    if workers <= 1 or len(requests) < 2:
        yield from ((case, measure_case(request)) for case, request in requests.items())
        return
    # a server that is forked before there are threads, and that imports once for all its children
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(min(workers, len(requests)), mp_context=context)
    try:
        running = {pool.submit(measure_case, request): case for case, request in requests.items()}
        for done in as_completed(running):
            yield running[done], done.result()
    except BrokenProcessPool:
        raise ValueError(
            "a process that read masks was killed, most often for want of memory; try --workers 1"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def measure_case(request: Request) -> Measured:
    """Measure one case; whatever is wrong with its files ends up in `troubles`."""
    found = Measured()
    if (ct := _file(request.folder, "ct")) is None:
        found.troubles.append(("no CT", f"{request.folder}: expected ct.nii.gz"))
        return found
    try:
        grid = _grid(nib.load(ct))
    except Exception as error:  # nibabel raises what its readers happen to meet
        found.troubles.append(("unreadable", f"{ct}: {_reason(error)}"))
        return found
    found.field_of_view = tuple(n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    if request.organs:
        _measure_masks(request, grid, found)
    return found


def _grid(image: SpatialImage) -> Grid:
    shape, spacing = image.header.get_data_shape()[:3], tuple(map(float, image.header.get_zooms()[:3]))
    if len(shape) < 3 or min(shape) < 1 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ValueError(f"expected three axes of positive spacing, got shape {shape}, spacing {spacing}")
    return Grid(shape, spacing, image.affine)


def _measure_masks(request: Request, grid: Grid, found: Measured) -> None:
    values, labels = None, _label_map(request.folder)
    if labels and (values := _read(labels, grid, found)) is None:
        return
    for organ in request.organs:
        if values is None:
            mask = _union_of_files(request.folder, organ, grid, found)
        else:
            ids = [request.label_ids[name] for name in organ if name in request.label_ids]
            mask = np.isin(values, ids) if ids else None
        if mask is not None:
            found.organs[organ] = measure_mask(mask, grid.spacing)


def _union_of_files(folder: Path, classes: frozenset[str], grid: Grid, found: Measured) -> np.ndarray | None:
    """Union of the classes' masks, None where there is none; one file is held at a time."""
    union = None
    for name in sorted(classes):
        path = next(filter(None, (_file(folder / masks, name) for masks in MASK_FOLDERS)), None)
        if path is None or (values := _read(path, grid, found)) is None:
            continue
        mask = values > 0
        union = mask if union is None else np.logical_or(union, mask, out=union)
    return union


def _label_map(folder: Path) -> Path | None:
    return next(filter(None, (_file(folder, name) for name in LABEL_MAPS)), None)


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _read(path: Path, grid: Grid, found: Measured) -> np.ndarray | None:
    """Voxels of a mask or label map; None, and a trouble, where they cannot be had."""
    try:
        image = nib.load(path)
        if not grid.is_same(own := _grid(image)):
            found.troubles.append(("grids differ", f"{path}: {own}; the CT has {grid}"))
            return None
        return np.asarray(image.dataobj).reshape(grid.shape)
    except Exception as error:  # as above
        found.troubles.append(("unreadable", f"{path}: {_reason(error)}"))
        return None


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
