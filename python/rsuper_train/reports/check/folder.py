# SPDX-License-Identifier: Apache-2.0
"""A folder of cases: which there are, and how large a CT and the organs in it are.

A case is a folder with `ct.nii.gz` and either one mask a class, `segmentations/<class>.nii.gz`, or one label map,
`labels.nii.gz` or `segmentation.nii.gz`. Of the CT only the header is read, masks are read one at a time.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

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
        header = nib.load(ct).header
        shape, spacing = header.get_data_shape()[:3], tuple(map(float, header.get_zooms()[:3]))
        if len(shape) < 3 or min(shape) < 1 or not all(np.isfinite(spacing)) or min(spacing) <= 0:
            raise ValueError(f"expected three axes of positive spacing, got shape {shape}, spacing {spacing}")
    except Exception as error:  # nibabel raises what its readers happen to meet
        found.troubles.append(("unreadable", f"{ct}: {_reason(error)}"))
        return found
    found.field_of_view = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    if request.organs:
        _measure_masks(request, shape, spacing, found)
    return found


def _measure_masks(request: Request, shape: Sequence[int], spacing: Sequence[float], found: Measured) -> None:
    values, labels = None, _label_map(request.folder)
    if labels and (values := _read(labels, shape, found)) is None:
        return
    for organ in request.organs:
        if values is None:
            mask = _union_of_files(request.folder, organ, shape, found)
        else:
            ids = [request.label_ids[name] for name in organ if name in request.label_ids]
            mask = np.isin(values, ids) if ids else None
        if mask is not None:
            found.organs[organ] = measure_mask(mask, spacing)


def _union_of_files(folder: Path, classes: frozenset[str], shape: Sequence[int], found: Measured) -> np.ndarray | None:
    """Union of the classes' masks, None where there is none; one file is held at a time."""
    union = None
    for name in sorted(classes):
        path = next(filter(None, (_file(folder / masks, name) for masks in MASK_FOLDERS)), None)
        if path is None or (values := _read(path, shape, found)) is None:
            continue
        mask = values > 0
        union = mask if union is None else np.logical_or(union, mask, out=union)
    return union


def _label_map(folder: Path) -> Path | None:
    return next(filter(None, (_file(folder, name) for name in LABEL_MAPS)), None)


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _read(path: Path, shape: Sequence[int], found: Measured) -> np.ndarray | None:
    """Voxels of a mask or label map; None, and a trouble, where they cannot be had."""
    try:
        image = nib.load(path)
        if image.shape[:3] != tuple(shape):
            found.troubles.append(("grids differ", f"{path}: shape {image.shape}, the CT's is {tuple(shape)}"))
            return None
        return np.asarray(image.dataobj).reshape(shape)
    except Exception as error:  # as above
        found.troubles.append(("unreadable", f"{path}: {_reason(error)}"))
        return None


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__
