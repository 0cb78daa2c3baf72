# SPDX-License-Identifier: Apache-2.0
"""Crops of prepared cases to train on: of which case, where, and what is known there."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from rsuper_kernels import Findings
from rsuper_train.augment import Crop, Turn, change_intensities, draw_turn, scale_findings
from rsuper_train.axes import Box, Spacing, Voxels
from rsuper_train.cases import Cases, fits
from rsuper_train.config import Augmentation, Config
from rsuper_train.inputs import network_input
from rsuper_train.layout import LESION
from rsuper_train.manifest import CASES, CaseRecord
from rsuper_train.reports.findings import CropFindings
from rsuper_train.store import SUFFIX, open_volume

T = TypeVar("T")

ELSEWHERE = 0.1
"""Share of the crops of report cases that are taken around what is free of tumours, whether they report one or not."""
OPEN_FILES = 256
"""Arrays that a process keeps open."""
AGAIN = "delete the case's prepared folder, and prepare the data again"


@dataclass(frozen=True)
class Sample:
    """One crop; S is (D, H, W).

    Args:
        case_id: the case that it is of.
        image: the network's input, float32 (C_in, *S).
        ct: float32 (1, *S), HU.
        regions: label map (*S), uint8 or int32.
        labels: uint8 (C, *S): organs, and tumours where they are annotated; 0 elsewhere.
        unknown: bool (C, *S), where labels are not known, besides what the findings say; None: nowhere.
        findings: of a batch of one; planes with a mask are `annotated`.
        spacing: mm (D, H, W).
        notes: what of the report is not in the findings, and why.
    """

    case_id: str
    image: torch.Tensor
    ct: torch.Tensor
    regions: torch.Tensor
    labels: torch.Tensor
    unknown: torch.Tensor | None
    findings: Findings
    spacing: Spacing
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples, their tensors stacked along a new first axis; `unknown` is None where it is for all of them."""

    image: torch.Tensor
    ct: torch.Tensor
    regions: torch.Tensor
    labels: torch.Tensor
    unknown: torch.Tensor | None
    findings: tuple[Findings, ...]
    case_ids: tuple[str, ...]
    spacing: tuple[Spacing, ...]

    def __len__(self) -> int:
        return len(self.case_ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors: dict[str, Any] = {n: change(v) for n, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one patch size."""
    unknown = None
    if any(sample.unknown is not None for sample in samples):
        nowhere = torch.zeros(samples[0].labels.shape, dtype=torch.bool)
        unknown = torch.stack([nowhere if sample.unknown is None else sample.unknown for sample in samples])
    stacked = {n: torch.stack([getattr(sample, n) for sample in samples]) for n in ("image", "ct", "regions", "labels")}
    return Batch(
        **stacked,
        unknown=unknown,
        findings=tuple(sample.findings for sample in samples),
        case_ids=tuple(sample.case_id for sample in samples),
        spacing=tuple(sample.spacing for sample in samples),
    )


class TrainingCrops(Dataset[Sample]):
    """The crops of a stage, without end: the n-th follows from (seed, stage, n) alone.

    Crop n is one of a report case where floor((n + 1) r) > floor(n r), r being the stage's ratio, else of a mask case.
    The cases of either kind come in random order, each once before any comes again.

    Args:
        cases: to train on.
        config: of the run.
        stage: its number.

    Raises:
        ValueError: the ratio asks for report cases, or for mask cases, and there are none.
    """

    def __init__(self, cases: Cases, config: Config, stage: int = 0) -> None:
        self._crops, self._config, self._stage = _Crops(cases, config), config, stage
        ratio = config.stages[stage].report_ratio
        self._ratio = Fraction(str(ratio))
        key = f"stages.{stage}.report_ratio is {ratio:g}"
        if ratio > 0 and not cases.report_cases:
            raise ValueError(
                f"{key}, and no case without masks has a report that says something; set data.reports to a table whose "
                "ids are the names of such cases, or the ratio to 0"
            )
        if ratio < 1 and not cases.mask_cases:
            raise ValueError(
                f"{key}, and no case has a mask for {', '.join(cases.lesions)}; prepare cases with masks, or set the "
                "ratio to 1 to train on reports alone"
            )

    def __getitem__(self, n: int) -> Sample:
        cases, seed, stage = self._crops.cases, self._config.seed, self._stage
        reports = math.floor(n * self._ratio)
        if math.floor((n + 1) * self._ratio) > reports:
            id = _from_pool(cases.report_cases, reports, (seed, stage, 1))
        else:
            id = _from_pool(cases.mask_cases, n - reports, (seed, stage, 0))
        return self._crops.make(id, np.random.default_rng([seed, stage, n]), self._config.augmentation)


class ValidationCrops(Dataset[Sample]):
    """One crop of each validation case, not augmented; it depends on the seed and the case alone."""

    def __init__(self, cases: Cases, config: Config) -> None:
        self._crops, self._ids, self._seed = _Crops(cases, config), cases.validation, config.seed

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        id = self._ids[index]
        name = hashlib.sha256(id.encode()).digest()
        return self._crops.make(id, np.random.default_rng([self._seed, *name]), None)


def _from_pool(pool: Sequence[str], k: int, seed: tuple[int, ...]) -> str:
    """The k-th case of a pool that is shuffled anew each time it has been gone through."""
    epoch, place = divmod(k, len(pool))
    return pool[_order(len(pool), (*seed, epoch))[place]]


@lru_cache(maxsize=4)
def _order(size: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(size)


class _Crops:
    """Makes crops; the same case, random numbers and configuration give the same crop."""

    def __init__(self, cases: Cases, config: Config) -> None:
        self.cases, self._data, self._sampling = cases, config.data, config.sampling
        self._lesions = {name: config.data.channels.index(name) for name in cases.lesions}
        self._organs = {
            plane: cases.label_set.ids[name]
            for plane, name in enumerate(config.data.channels)
            if name not in self._lesions
        }

    def make(self, id: str, rng: np.random.Generator, augmentation: Augmentation | None) -> Sample:
        """A crop of the case where it has something to teach; without augmentation where that is None.

        Raises:
            ValueError: an array of the case is missing, damaged or of another shape; its file is named.
        """
        manifest, inputs = self.cases.manifest, self._data.inputs
        record = manifest.cases[id]
        region, turn = self._region(record, draw_turn(augmentation, rng) if augmentation else Turn(), rng)
        size = turn.exchange(self._data.patch)
        box = region or self._surroundings(record, size, rng)
        crop = Crop.at(_start(box, size, record.shape, rng), size).turned(turn.matrix, record.spacing, region)

        ct = crop.resample(self._read(record, "ct", crop.box, manifest.clip[0]).astype(np.float32), order=1)
        source = self._read(record, "labels", crop.box)
        regions = crop.resample(source, order=0)
        image = network_input(ct, regions, record, manifest.intensity, inputs)
        if augmentation:
            change_intensities(image, inputs, augmentation, rng)
        labels = self._labels(record, crop, regions)
        said = self.cases.findings([id], [_visible(source, crop.inside(), record)])
        unknown = self._unknown(record, regions, labels, said)
        return Sample(
            case_id=id,
            image=_tensor(turn.apply(image)),
            ct=_tensor(turn.apply(ct[None])),
            regions=_tensor(turn.apply(regions)),
            labels=_tensor(turn.apply(labels)),
            unknown=None if unknown is None else _tensor(turn.apply(unknown)),
            findings=self._findings(record, scale_findings(said.findings, crop.scale)),
            spacing=turn.exchange(record.spacing),
            notes=said.notes,
        )

    def _region(self, record: CaseRecord, turn: Turn, rng: np.random.Generator) -> tuple[Box | None, Turn]:
        """A region with reported tumours that the crop has to hold, and the turn with which it can; None: none."""
        if record.id in self.cases.groups and rng.random() >= ELSEWHERE:
            boxes = self.cases.tumour_boxes(record.id)
            for allowed in (turn, replace(turn, transpose=False)):
                size = allowed.exchange(self._data.patch)
                if fitting := [box for box in boxes if fits(box, size, record.shape)]:
                    return _choice(fitting, rng), allowed
        return None, turn

    def _surroundings(self, record: CaseRecord, size: Voxels, rng: np.random.Generator) -> Box:
        """Half a patch around a voxel of what is known, so that the voxel is not always in the middle of the crop."""
        if record.id in self.cases.groups:
            box = _choice(self.cases.negative_boxes(record.id) or self.cases.organ_boxes(record.id), rng)
        else:
            box = self._box_with_masks(record, rng)
        voxel = [int(rng.integers(*edge)) for edge in box]
        return _box((v - s // 4, v + s // 4 + 1) for v, s in zip(voxel, size, strict=True))

    def _box_with_masks(self, record: CaseRecord, rng: np.random.Generator) -> Box:
        """A voxel of a tumour, the box of an organ, or all of the volume, in the shares that are asked for."""
        chance, shares = rng.random(), self._sampling
        names = [name for channel in self.cases.annotated(record.id) for name in self.cases.masks(record.id, channel)]
        filled = [name for name in names if record.lesions[name].voxels]
        if filled and chance < shares.tumour_share:
            return self._tumour_voxel(record, _choice(filled, rng), rng)
        organs = self.cases.organ_boxes(record.id)
        if organs and chance < shares.tumour_share + shares.organ_share:
            return _choice(organs, rng)
        return _box((0, n) for n in record.shape)

    def _tumour_voxel(self, record: CaseRecord, mask: str, rng: np.random.Generator) -> Box:
        box = record.lesions[mask].box or _box((0, n) for n in record.shape)
        found = np.flatnonzero(self._read(record, "lesions", box) & self._bits([mask]))
        if not found.size:
            raise ValueError(f"case {record.id}: its record has voxels of {mask}, its array has none; {AGAIN}")
        voxel = np.unravel_index(rng.choice(found), [end - first for first, end in box])
        return _box((first + int(v), first + int(v) + 1) for (first, _), v in zip(box, voxel, strict=True))

    def _labels(self, record: CaseRecord, crop: Crop, regions: np.ndarray) -> np.ndarray:
        """Planes of organs and of annotated tumours; zeros in the others."""
        labels = np.zeros((len(self._data.channels), *regions.shape), np.uint8)
        for plane, label in self._organs.items():
            labels[plane] = regions == label
        annotated = self.cases.annotated(record.id)
        if annotated and any(extent.voxels for extent in record.lesions.values()):
            lesions = crop.resample(self._read(record, "lesions", crop.box), order=0)
            for name in annotated:
                labels[self._lesions[name]] = (lesions & self._bits(self.cases.masks(record.id, name))) != 0
        return labels

    def _bits(self, masks: Iterable[str]) -> int:
        return sum(1 << self.cases.manifest.channels.index(name) for name in masks)

    def _unknown(
        self, record: CaseRecord, regions: np.ndarray, labels: np.ndarray, said: CropFindings
    ) -> np.ndarray | None:
        annotated, known = self.cases.annotated(record.id), self.cases.known_labels(record.id)
        unknown = np.zeros(labels.shape, bool)
        if LESION in annotated and known is not None:
            plane = self._lesions[LESION]
            unknown[plane] = ~np.isin(regions, sorted(known)) & (labels[plane] == 0)
        by_report = said.unknown_mask(_tensor(regions)[None])
        if by_report is not None:
            for mask, (name, plane) in zip(by_report[0].numpy(), self._lesions.items(), strict=True):
                if name not in annotated:
                    unknown[plane] = mask
        return unknown if unknown.any() else None

    def _findings(self, record: CaseRecord, said: Findings) -> Findings:
        """Findings over all of the network's channels, from those over its lesion channels."""
        planes = tuple(self._lesions.values())
        return Findings(
            groups=[replace(group, channel=planes[int(group.channel)]) for group in said.groups],
            channels=self._data.channels,
            lesion_channels=planes,
            annotated=frozenset((0, self._lesions[name]) for name in self.cases.annotated(record.id)),
        )

    def _read(self, record: CaseRecord, name: str, box: Box, outside: int = 0) -> np.ndarray:
        """A box of one of the case's arrays, with `outside` where it reaches beyond the volume."""
        path = self._data.prepared / CASES / record.id / f"{name}{SUFFIX}"
        inside = [(max(first, 0), min(end, n)) for (first, end), n in zip(box, record.shape, strict=True)]
        try:
            volume = _opened(path, os.getpid())
            if volume.shape != record.shape:
                raise ValueError(f"expected the shape {record.shape}, got {volume.shape}")
            values: np.ndarray = volume[tuple(slice(*edge) for edge in inside)]
        except Exception as error:
            raise ValueError(f"case {record.id}: {path} cannot be read: {error}; {AGAIN}") from error
        beyond = [(a - first, end - b) for (first, end), (a, b) in zip(box, inside, strict=True)]
        return np.pad(values, beyond, constant_values=outside) if np.any(beyond) else values


def _start(box: Box, size: Voxels, shape: Voxels, rng: np.random.Generator) -> list[int]:
    """First voxel of a crop, uniform among those that hold the box with a voxel around it and stay in the volume.

    A crop that cannot hold the box has the same middle; one that is larger than the volume has that of the volume.
    """
    starts = []
    for (first, end), s, n in zip(box, size, shape, strict=True):
        least, most = max(min(end + 1, n) - s, 0), min(max(first - 1, 0), n - s)
        if n <= s:
            least = most = (n - s) // 2
        starts.append(int(rng.integers(least, most + 1)) if least <= most else (least + most) // 2)
    return starts


def _visible(source: np.ndarray, inside: np.ndarray | None, record: CaseRecord) -> dict[int, float]:
    """Label id -> fraction of the case's voxels with it that the crop holds, those of `source` that are `inside`."""
    voxels = source.ravel() if inside is None else source[inside]
    counts = np.bincount(voxels, minlength=max(record.labels, default=0) + 1)
    return {label: min(int(counts[label]) / extent.voxels, 1.0) for label, extent in record.labels.items()}


def _box(edges: Iterable[tuple[int, int]]) -> Box:
    depth, height, width = edges
    return (depth, height, width)


def _choice(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _tensor(values: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor; labels of 16 bits become 32, since torch does little with the former."""
    return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: Path, process: int) -> Any:
    """A volume that this process has opened: a forked one would share its place in the file with the other."""
    return open_volume(path)
