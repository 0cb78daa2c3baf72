# SPDX-License-Identifier: Apache-2.0
"""Small prepared datasets, written by hand: what `rsuper prepare` would write for arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rsuper_train.manifest import CASES, CaseRecord, Extent, Intensity, Manifest, Source
from rsuper_train.reports.masks import load_label_set
from rsuper_train.store import SUFFIX, write_volume

IDS = dict(load_label_set("abdomenatlas").ids)
"""Classes of the label maps of these datasets."""


@dataclass
class PreparedCase:
    """Arrays (D, H, W) of one case: CT in HU, label map, a mask for each annotated lesion channel."""

    ct: np.ndarray
    labels: np.ndarray
    lesions: Mapping[str, np.ndarray] = field(default_factory=dict)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


def write_prepared(
    folder: Path,
    cases: Mapping[str, PreparedCase],
    *,
    channels: Sequence[str] | None = None,
    spacing: tuple[float, float, float] | None = (1.0, 1.0, 1.0),
    clip: tuple[int, int] = (-1000, 1000),
    intensity: Intensity | None = None,
) -> Manifest:
    """Write a prepared dataset; `channels` are those of all cases where None."""
    if channels is None:
        channels = sorted({name for case in cases.values() for name in case.lesions})
    records = {id: _write_case(folder / CASES / id, id, case, channels) for id, case in cases.items()}
    manifest = Manifest(
        spacing=spacing,
        clip=clip,
        intensity=intensity or Intensity(mean=40.0, sd=100.0),
        label_set_name="abdomenatlas",
        label_set=IDS,
        channels=tuple(channels),
        cases=records,
    )
    manifest.write(folder)
    return manifest


def ball(shape: Sequence[int], centre: Sequence[float], radius: float) -> np.ndarray:
    """Mask of a ball, in voxels."""
    offsets = np.indices(tuple(shape)) - np.reshape(centre, (3, 1, 1, 1))
    return (offsets**2).sum(0) <= radius**2


def _write_case(folder: Path, id: str, case: PreparedCase, channels: Sequence[str]) -> CaseRecord:
    folder.mkdir(parents=True, exist_ok=True)
    lesions = np.zeros(case.ct.shape, np.uint8 if len(channels) <= 8 else np.uint32)
    for bit, channel in enumerate(channels):
        if channel in case.lesions:
            lesions[case.lesions[channel]] |= lesions.dtype.type(1 << bit)
    arrays: dict[str, np.ndarray] = {
        "ct": case.ct.astype(np.int16),
        "labels": case.labels.astype(np.uint8),
        "lesions": lesions,
    }
    for name, array in arrays.items():
        write_volume(folder / f"{name}{SUFFIX}", array)
    record = CaseRecord(
        id=id,
        shape=case.ct.shape,
        spacing=case.spacing,
        source=Source(shape=case.ct.shape[::-1], affine=np.eye(4).tolist(), files={}),
        labels={int(label): _extent(case.labels == label, case.ct) for label in np.unique(case.labels) if label},
        lesions={name: _extent(mask, case.ct) for name, mask in case.lesions.items()},
    )
    (folder / "case.json").write_text(record.model_dump_json(), encoding="utf-8")
    return record


def _extent(mask: np.ndarray, ct: np.ndarray) -> Extent:
    where = np.nonzero(mask)
    if not len(where[0]):
        return Extent(voxels=0)
    box = tuple((int(axis.min()), int(axis.max()) + 1) for axis in where)
    return Extent(voxels=len(where[0]), box=box, median=float(np.median(ct[mask])))
