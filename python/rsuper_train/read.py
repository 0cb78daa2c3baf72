# SPDX-License-Identifier: Apache-2.0
"""A case as arrays (D, H, W): what its files say, checked, on the axes and the spacing of prepared data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects

from rsuper_train.axes import Spacing, Voxels
from rsuper_train.grids import resample, shape_at
from rsuper_train.layout import CaseError, CaseFiles
from rsuper_train.manifest import CaseRecord, Extent, Source
from rsuper_train.nifti import PLAUSIBLE, Grid, Image, naming
from rsuper_train.reports.masks import LabelSet

ODD_ANGLE = 2.0
"""Degrees between an axis and the patient's from which a note says so."""
MOST_LESIONS = 32


@dataclass(frozen=True)
class Options:
    """How cases are prepared.

    Args:
        label_set: classes and ids of the organs.
        spacing: mm (D, H, W); None keeps each case's own.
        clip: HU outside of which a CT is cut off.
        channels: lesion channels, in the order of their bits; masks of others are left out.
    """

    label_set: LabelSet
    spacing: Spacing | None = (1.0, 1.0, 1.0)
    clip: tuple[int, int] = (-1000, 1000)
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.clip
        if not -(2**15) <= low < high < 2**15:
            raise ValueError(f"clip: expected HU from low to high, at most 16 bits, got {low} to {high}")
        if self.spacing and not all(PLAUSIBLE[0] <= step <= PLAUSIBLE[1] for step in self.spacing):
            raise ValueError(f"spacing: expected {PLAUSIBLE[0]} to {PLAUSIBLE[1]} mm, got {self.spacing}")
        if len(self.channels) > MOST_LESIONS:
            raise ValueError(f"expected at most {MOST_LESIONS} lesion channels, got {', '.join(self.channels)}")

    def __str__(self) -> str:
        """Equal where prepared cases may be mixed; what people chose can be read in it."""
        ids = self.label_set.ids
        digest = hashlib.sha256(repr(sorted(ids.items())).encode()).hexdigest()[:8]
        spacing = "own" if self.spacing is None else " x ".join(f"{step:g}" for step in self.spacing)
        return f"spacing {spacing}, clip {self.clip[0]} to {self.clip[1]}, label set {self.label_set.name} ({digest})"


@dataclass
class Volume:
    """A case.

    Args:
        ct: int16 in HU, clipped.
        labels: label ids, uint8 or uint16.
        lesions: bit i is channel i of the options, uint8, uint16 or uint32.
        record: of the case, without checksums.
    """

    ct: np.ndarray
    labels: np.ndarray
    lesions: np.ndarray
    record: CaseRecord


def read_case(files: CaseFiles, options: Options) -> Volume:
    """Read a case.

    Of masks that overlap, that of a part ("liver_segment_1") comes before that of the whole ("liver"), and the higher
    id before the lower. Voxels that are not numbers are air. Masks have to lie on the CT's grid, in whatever order
    their axes are stored.

    Raises:
        CaseError: no CT, a file that cannot be read, a header without a spacing, a mask on another grid, ...
    """
    if files.ct is None:
        raise CaseError(f"{files.folder}: expected ct.nii.gz")
    with naming(files.folder):
        read = stamps(files)
    image = Image(files.ct)
    grid, notes = image.grid, image.notes
    ct = _read_ct(image, options.clip)
    spacing = options.spacing or grid.spacing
    shape = shape_at(grid.shape, grid.spacing, spacing)
    ct = resample(ct, grid.spacing, spacing, shape, order=1)
    labels = resample(_read_labels(files, grid, options.label_set, notes), grid.spacing, spacing, shape, order=0)
    lesions = np.zeros(shape, np.min_scalar_type(2 ** len(options.channels) - 1))
    extents = {}
    for bit, channel in enumerate(options.channels):
        if channel in files.lesions:
            mask = _read_lesion(files.lesions[channel], grid, spacing, shape)
            lesions |= mask.astype(lesions.dtype) << bit
            extents[channel] = _extents(ct, mask.view(np.uint8)).get(1, Extent(voxels=0))
    record = CaseRecord(
        id=files.id,
        shape=shape,
        spacing=spacing,
        source=Source(shape=image.shape, affine=tuple(map(tuple, image.affine.tolist())), files=read),
        labels=_extents(ct, labels),
        lesions=extents,
        notes=tuple(notes),
    )
    return Volume(ct, labels, lesions, record)


def stamps(files: CaseFiles) -> dict[str, tuple[int, int]]:
    """Name within the case -> bytes and time of the last change, of the files that are used."""
    found = {path.relative_to(files.folder).as_posix(): path.stat() for path in files.used()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def _read_ct(image: Image, clip: tuple[int, int]) -> np.ndarray:
    axes = np.diag(image.grid.affine[2::-1]) / np.linalg.norm(image.grid.affine[:3, :3], axis=0)
    if (turn := np.degrees(np.arccos(axes.clip(-1, 1))).max()) > ODD_ANGLE:
        image.notes.append(f"ct: axes up to {turn:.0f} degrees from the patient's; its voxels are kept as they lie")
    ct = np.empty(image.grid.shape, np.int16)
    unknown, lowest = 0, np.inf
    for stored, plane in zip(image.planes(), ct, strict=True):
        values = stored.astype(np.float32)
        missing = np.isnan(values)
        unknown += int(np.count_nonzero(missing))
        lowest = min(lowest, np.fmin.reduce(values, axis=None))
        values[missing] = clip[0]
        plane[:] = np.rint(values.clip(*clip))
    if unknown == ct.size:
        raise CaseError(f"{image.path}: expected HU, none of its voxels is a number")
    if unknown:
        image.notes.append(f"ct: {unknown} voxels are not numbers, taken as {clip[0]} HU")
    if lowest >= 0:
        image.notes.append(f"ct: the lowest value is {lowest:.0f}; is it in HU, or is an offset of -1024 missing?")
    return ct


def _read_labels(files: CaseFiles, grid: Grid, label_set: LabelSet, notes: list[str]) -> np.ndarray:
    ids = label_set.ids
    labels = np.zeros(grid.shape, np.min_scalar_type(max(ids.values())))
    if files.label_map is not None:
        if strange := _copy_ids(Image(files.label_map, grid), set(ids.values()), labels):
            shown = ", ".join(map(str, sorted(strange)[:10]))
            notes.append(f"{files.label_map.name}: ids that label set {label_set.name} does not have: {shown}")
        return labels
    known = files.organs.keys() & ids.keys()
    # a part's name begins with that of the whole
    for name in sorted(known, key=lambda name: (sum(name.startswith(f"{whole}_") for whole in ids), ids[name])):
        for values, plane in zip(Image(files.organs[name], grid).planes(), labels, strict=True):
            np.putmask(plane, values > 0.5, ids[name])
    if others := sorted(files.organs.keys() - known):
        notes.append(f"masks that label set {label_set.name} does not have: {', '.join(others)}")
    return labels


def _copy_ids(image: Image, known: set[int], labels: np.ndarray) -> set[int]:
    """Fill `labels` with a label map; returns its ids that are not known, which become background."""
    table = np.zeros(max(known) + 1, labels.dtype)
    table[list(known)] = list(known)
    strange: set[int] = set()
    for values, plane in zip(image.planes(), labels, strict=True):
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise CaseError(f"{image.path}: expected whole numbers, the ids of labels; got others, too")
        ids = values.astype(np.int64)
        plane[:] = table[np.where((ids < 0) | (ids >= len(table)), 0, ids)]
        strange |= set(np.unique(ids[plane != ids]).tolist())
    return strange


def _read_lesion(path: Path, grid: Grid, spacing: Spacing, shape: Voxels) -> np.ndarray:
    """A lesion mask on the new grid: as many of the voxels that it touches most as keep its volume.

    A cut at one half would take a seventh of the volume from a lesion of 5 mm, at 1 mm to 1.5 mm.
    """
    mask = np.stack([plane > 0.5 for plane in Image(path, grid).planes()])
    if (shares := resample(mask, grid.spacing, spacing, shape, order=1)) is mask:
        return mask
    touched = shares[shares > 0]
    count = round(np.count_nonzero(mask) * np.prod(grid.spacing) / np.prod(spacing))
    count = min(max(count, 1), touched.size)
    return shares >= np.partition(touched, -count)[-count] if count else shares > 0


def _extents(ct: np.ndarray, labels: np.ndarray) -> dict[int, Extent]:
    """Extents of the ids in a label map."""
    found = {}
    for id, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            values = ct[box][labels[box] == id]
            d, h, w = ((side.start, side.stop) for side in box)
            found[id] = Extent(voxels=values.size, box=(d, h, w), median=float(np.median(values)))
    return found
