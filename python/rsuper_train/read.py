# SPDX-License-Identifier: Apache-2.0
"""A case as arrays (D, H, W): what its files say, checked, on the axes and the spacing of prepared data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from scipy.ndimage import find_objects

from rsuper_train.grids import grid_of, resample, shape_at, to_axes
from rsuper_train.layout import CaseFiles, Grid, first_line
from rsuper_train.manifest import CaseRecord, Extent, Source, Spacing, Voxels
from rsuper_train.reports.masks import LabelSet

PLAUSIBLE = (0.05, 50.0)
"""mm between voxels that a CT may have."""
TURNED = 5.0
"""Degrees between an axis and the patient's from which a note says so."""
SKEWED, TOO_SKEWED = 0.02, 0.7
"""Cosine between two axes from which a note says so, and from which no CT is like that."""
MOST_LESIONS = 32


class CaseError(ValueError):
    """A case cannot be read; the message is one sentence that names the file."""


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
        if len(self.channels) > MOST_LESIONS:
            raise ValueError(f"expected at most {MOST_LESIONS} lesion channels, got {', '.join(self.channels)}")

    def fingerprint(self) -> str:
        """Equal where arrays may be mixed; a person can read it, too."""
        ids = self.label_set.ids
        digest = hashlib.sha256(repr(sorted(ids.items())).encode()).hexdigest()[:8]
        label_set = f"label set {self.label_set.name} ({len(ids)} classes, {digest})"
        return f"spacing {self.spacing or 'own'}, clip {self.clip}, {label_set}"


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
    notes: list[str] = []
    with _naming(files.folder):
        read = stamps(files)
    with _naming(files.ct):
        image, affine, grid = _open(files.ct, notes)
        notes += _describe_axes(grid)
        spacing = options.spacing or grid.spacing
        shape = shape_at(grid.shape, grid.spacing, spacing)
        ct = resample(_read_ct(image, affine, options.clip, notes), grid.spacing, spacing, shape, order=1)
    labels = resample(_read_labels(files, grid, options.label_set, notes), grid.spacing, spacing, shape, order=0)
    lesions = np.zeros(shape, np.min_scalar_type(2 ** max(len(options.channels), 1) - 1))
    extents = {}
    for bit, channel in enumerate(options.channels):
        if channel in files.lesions:
            mask = _read_lesion(files.lesions[channel], grid, spacing, shape, notes)
            lesions |= mask.astype(lesions.dtype) << bit
            extents[channel] = _extents(ct, mask.view(np.uint8)).get(1, Extent(voxels=0))
    record = CaseRecord(
        id=files.id,
        shape=shape,
        spacing=spacing,
        source=Source(shape=image.shape[:3], affine=tuple(map(tuple, affine.tolist())), files=read),
        labels=_extents(ct, labels),
        lesions=extents,
        notes=tuple(notes),
    )
    return Volume(ct, labels, lesions, record)


def stamps(files: CaseFiles) -> dict[str, tuple[int, int]]:
    """Name within the case -> bytes and time of the last change, of the files that are used."""
    found = {path.relative_to(files.folder).as_posix(): path.stat() for path in files.used()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever nibabel meets in a file becomes a sentence with its name."""
    try:
        yield
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(f"{path}: {first_line(error)}") from error


def _open(path: Path, notes: list[str]) -> tuple[Any, np.ndarray, Grid]:
    """An image whose voxels are not read yet, its affine, and its grid (D, H, W)."""
    image: Any = nib.load(path)
    shape = image.shape
    if len(shape) < 3 or min(shape) < 1 or np.prod(shape[3:]) != 1:
        raise CaseError(f"{path}: expected one volume of three axes, got {' x '.join(map(str, shape))}")
    if len(shape) > 3:
        notes.append(f"{path.name}: {len(shape)} axes, taken as the one volume that they hold")
    affine = _affine(image, path, notes)
    grid = grid_of(shape[:3], affine)
    low, high = PLAUSIBLE
    if not low <= min(grid.spacing) <= max(grid.spacing) <= high:
        raise CaseError(f"{path}: expected voxels of {low} to {high} mm, got {grid}")
    return image, affine, grid


def _affine(image: Any, path: Path, notes: list[str]) -> np.ndarray:
    """The header's sform, else its qform, else its spacing in nibabel's default orientation."""
    header = image.header
    coded = False
    for name in ("sform", "qform"):
        form, code = getattr(header, f"get_{name}")(coded=True)
        if code and np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 1e-9:
            if coded:
                notes.append(f"{path.name}: the sform in the header is unusable, its qform is taken")
            return np.asarray(form, float)
        coded = coded or bool(code)
    if coded:
        raise CaseError(f"{path}: the affine in the header cannot be inverted: {image.affine[:3].tolist()}")
    with ImageOpener(path) as file:
        # as written: nibabel puts 1 mm where there is 0
        spacing = type(header)(file.read(header.sizeof_hdr), check=False)["pixdim"][1:4].tolist()
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise CaseError(f"{path}: the header has neither an affine nor a spacing: pixdim {spacing}")
    notes.append(f"{path.name}: the header has no orientation: left and right are a guess")
    return np.asarray(header.get_base_affine(), float)


def _describe_axes(grid: Grid) -> Iterator[str]:
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    turn = np.degrees(np.arccos(np.clip(np.diag(axes[::-1]), -1, 1))).max()
    skew = max(abs(axes[:, i] @ axes[:, j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    if skew > TOO_SKEWED:
        raise CaseError(f"ct: the affine's axes are nearly parallel: {grid.affine[:3].tolist()}")
    if skew > SKEWED:
        yield f"ct: the axes are {np.degrees(np.arccos(skew)):.0f} degrees to each other; the slices are kept"
    elif turn > TURNED:
        yield f"ct: turned by {turn:.0f} degrees against the patient's axes; the voxels are kept"


def _voxels(image: Any, affine: np.ndarray) -> np.ndarray:
    """The voxels (D, H, W) as stored, before the header's slope and intercept."""
    voxels = np.asarray(image.dataobj.get_unscaled())
    if voxels.dtype.kind not in "biuf":
        raise CaseError(f"{image.get_filename()}: expected one number a voxel, got {voxels.dtype}")
    return to_axes(voxels.reshape(image.shape[:3]), affine)


def _read_ct(image: Any, affine: np.ndarray, clip: tuple[int, int], notes: list[str]) -> np.ndarray:
    voxels, (slope, intercept) = _voxels(image, affine), _scaling(image)
    ct = np.empty(voxels.shape, np.int16)
    unknown, lowest = 0, np.inf
    for stored, plane in zip(voxels, ct, strict=True):
        values = stored.astype(np.float32) * slope + intercept
        missing = np.isnan(values)
        unknown += int(np.count_nonzero(missing))
        values[missing] = clip[0]
        lowest = min(lowest, values.min())
        plane[:] = np.rint(values.clip(*clip))
    if unknown:
        notes.append(f"ct: {unknown} voxels are not numbers, taken as {clip[0]} HU")
    if lowest >= 0:
        notes.append(f"ct: the lowest value is {lowest:.0f}; is it in HU, or is an offset of -1024 missing?")
    return ct


def _scaling(image: Any) -> tuple[np.float32, np.float32]:
    return np.float32(image.dataobj.slope), np.float32(image.dataobj.inter)


def _read_mask(path: Path, grid: Grid) -> np.ndarray:
    """The values of a mask or label map (D, H, W), as stored where the header does not scale them."""
    image, affine, own = _open(path, [])
    if not own.is_same(grid):
        raise CaseError(f"{path}: expected the grid of the CT, {grid}; got {own}")
    voxels, (slope, intercept) = _voxels(image, affine), _scaling(image)
    return voxels if (slope, intercept) == (1, 0) else voxels * slope + intercept


def _read_labels(files: CaseFiles, grid: Grid, label_set: LabelSet, notes: list[str]) -> np.ndarray:
    ids = label_set.ids
    labels = np.zeros(grid.shape, np.min_scalar_type(max(ids.values())))
    if files.label_map is not None:
        with _naming(files.label_map):
            _copy_ids(files.label_map, grid, label_set, labels, notes)
        return labels
    known = sorted(files.organs.keys() & ids.keys(), key=lambda name: (_depth(name, ids), ids[name]))
    for name in known:
        with _naming(files.organs[name]):
            np.putmask(labels, _read_mask(files.organs[name], grid) > 0.5, ids[name])
    if others := sorted(files.organs.keys() - ids.keys()):
        notes.append(f"masks left out, since label set {label_set.name} has no such class: {', '.join(others)}")
    return labels


def _depth(name: str, names: Iterable[str]) -> int:
    """How many classes a class is a part of, by their names."""
    return sum(name.startswith(f"{whole}_") for whole in names)


def _copy_ids(path: Path, grid: Grid, label_set: LabelSet, labels: np.ndarray, notes: list[str]) -> None:
    """Fill `labels` with the ids of a label map; those that the label set does not have become background."""
    top = max(label_set.ids.values())
    known = np.zeros(top + 1, labels.dtype)
    known[list(label_set.ids.values())] = list(label_set.ids.values())
    strange: set[int] = set()
    for values, plane in zip(_read_mask(path, grid), labels, strict=True):
        if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
            raise CaseError(f"{path}: expected whole numbers, the ids of labels; got others, too")
        ids = values.astype(np.int64)
        outside = (ids < 0) | (ids > top)
        strange |= set(np.unique(ids[outside]).tolist())
        ids[outside] = 0
        plane[:] = known[ids]
        strange |= set(np.unique(ids[(plane == 0) & (ids > 0)]).tolist())
    if strange:
        shown = ", ".join(map(str, sorted(strange)[:10]))
        notes.append(f"{path.name}: label set {label_set.name} has no id {shown}; taken as background")


def _read_lesion(path: Path, grid: Grid, spacing: Spacing, shape: Voxels, notes: list[str]) -> np.ndarray:
    with _naming(path):
        mask = _read_mask(path, grid) > 0.5
    if spacing == grid.spacing and shape == grid.shape:
        return np.ascontiguousarray(mask)
    lesion = resample(mask.astype(np.float32), grid.spacing, spacing, shape, order=1) >= 0.5
    if mask.any() and not lesion.any():
        notes.append(f"{path.name}: its {np.count_nonzero(mask)} voxels are too few for the new spacing")
    return lesion


def _extents(ct: np.ndarray, labels: np.ndarray) -> dict[int, Extent]:
    """Extents of the ids in a label map."""
    found = {}
    for id, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            values = ct[box][labels[box] == id]
            d, h, w = ((side.start, side.stop) for side in box)
            found[id] = Extent(voxels=values.size, box=(d, h, w), median=float(np.median(values)))
    return found
