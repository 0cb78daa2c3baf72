# SPDX-License-Identifier: Apache-2.0
"""From reports to what the losses take: tumours grouped by region, negatives, and where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

import rsuper_kernels
from rsuper_kernels.findings import LARGEST_DIAMETER, FindingGroup, Findings
from rsuper_train.reports.masks import LabelSet, ids_by_organ, region
from rsuper_train.reports.places import format_place
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.vocabulary import Vocabulary, load_vocabulary

Unmentioned = Literal["unknown", "negative"]

BACKGROUND = 0
"""Label id of what no class covers; ids that the label set does not name count as it."""


@dataclass(frozen=True)
class CropFindings:
    """What the reports of a batch say about its crops.

    Args:
        findings: for the report losses.
        unknown: plane (sample, channel) -> label ids of the voxels of which nothing is known there, besides what the
            findings say: regions of tumours that the crop cuts, or that could not be placed.
        notes: what of the reports is not in the findings, and why; each begins with the report's id.
        label_ids: all ids of the label set.
    """

    findings: Findings
    unknown: Mapping[tuple[int, int], frozenset[int]]
    notes: tuple[str, ...]
    label_ids: frozenset[int]

    def unknown_mask(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The unknown voxels as `ReportSupervisedLoss` takes them; None where there are none.

        Args:
            labels: integer label map (B, D, H, W).

        Returns:
            Booleans (B, C, D, H, W), on the device of the labels.
        """
        if not self.unknown:
            return None
        size = max(self.label_ids) + 1
        table = torch.zeros(self.findings.batch_size, self.findings.channel_count, size, dtype=torch.bool)
        for plane, unknown in self.unknown.items():
            table[plane][sorted(unknown)] = True
        named = torch.zeros(size, dtype=torch.int64)
        named[sorted(self.label_ids)] = torch.tensor(sorted(self.label_ids))
        table, named = table.to(labels.device), named.to(labels.device)
        known = (labels >= 0) & (labels < size)
        ids = named[torch.where(known, labels, 0).long()]
        return torch.stack([rows[:, sample] for rows, sample in zip(table, ids, strict=True)])


def to_findings(
    reports: Sequence[Report],
    label_set: LabelSet,
    channels: Sequence[str] | None = None,
    vocabulary: Vocabulary | None = None,
    *,
    unmentioned: Unmentioned = "unknown",
    visible: Sequence[Mapping[int, float]] | None = None,
) -> CropFindings:
    """Turn the reports of a batch, one a sample, into findings over label maps.

    Tumours are grouped by region: those whose regions share a label id are in one group over the union, also by way of
    others. A place that is not said is the whole organ, on both sides. An unknown size is a tumour of unknown size; an
    uncounted number, or "bilateral", a group of unknown count. Nothing is left out without a note:

    - a region of which the crop has a part only: its tumours are excluded, and the region is unknown;
    - an organ without a class, or not found in the scan: the tumour may be wherever no organ is, which is unknown;
    - an organ that is not said ("unknown"): all of the sample is unknown, without negatives; counts are unknown;
    - an organ without a channel: left out.

    A reported negative is one over its region, less what tumours and unknown regions touch. A report that describes
    tumours of an organ is taken to list all of them. One that names neither a tumour nor a negative says nothing.

    Args:
        reports: one a sample, in the order of the batch.
        label_set: what the ids of the label maps mean.
        channels: the network's channels; those that are an organ's in the vocabulary hold its tumours. A single
            channel that is no organ's holds all tumours. None: the channels of all organs that have a class.
        vocabulary: organs, channels, masks; the package's own where None.
        unmentioned: organs that the report does not mention are "unknown", or "negative".
        visible: per sample, label id -> fraction of the voxels with that id in the scan that lies in the crop, 0 for an
            id outside it; ids that the scan does not have are not there (see `visible_fractions`). None: crops are
            whole scans.

    Raises:
        ValueError: no channel for tumours, another number of `visible` than of reports, fractions beyond 0 to 1.
    """
    words = vocabulary or load_vocabulary()
    where = _Channels.of(channels, label_set, words)
    if visible is not None:
        _check_visible(visible, len(reports))
    samples = [
        _Sample(index, report, label_set, words, where, None if visible is None else visible[index], unmentioned)
        for index, report in enumerate(reports)
    ]
    for sample in samples:
        sample.read()
    return CropFindings(
        findings=Findings(
            groups=tuple(group for sample in samples for group in sample.groups),
            batch_size=len(reports),
            channels=where.names,
            lesion_channels=where.lesions,
        ),
        unknown={
            (sample.index, channel): frozenset(ids)
            for sample in samples
            for channel, ids in sample.unknown.items()
            if ids
        },
        notes=tuple(note for sample in samples for note in sample.notes),
        label_ids=frozenset(label_set.ids.values()),
    )


def visible_fractions(labels: np.ndarray, crop: tuple[slice, ...]) -> dict[int, float]:
    """Per label id of a scan, the fraction of its voxels that lies in the crop; for `to_findings`.

    Args:
        labels: label map of the whole scan (D, H, W), integers of at least 0.
        crop: one slice an axis.
    """
    total = np.bincount(labels.ravel())
    inside = np.bincount(labels[crop].ravel(), minlength=len(total))
    return {int(id): float(inside[id] / total[id]) for id in np.flatnonzero(total) if id != BACKGROUND}


def _check_visible(visible: Sequence[Mapping[int, float]], count: int) -> None:
    if len(visible) != count:
        raise ValueError(f"visible: expected one map a report, {count}, got {len(visible)}")
    for index, fractions in enumerate(visible):
        for id, fraction in fractions.items():
            if not 0 <= fraction <= 1:
                raise ValueError(f"visible[{index}]: expected fractions from 0 to 1, got {fraction} for label {id}")


@dataclass(frozen=True)
class _Channels:
    """The network's channels, and which of them holds the tumours of an organ."""

    names: tuple[str, ...]
    lesions: tuple[int, ...]
    by_organ: Mapping[str, int]
    any_organ: int | None
    """The channel of all tumours, if there is one."""
    organ_ids: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, channels: Sequence[str] | None, label_set: LabelSet, vocabulary: Vocabulary) -> _Channels:
        own = {name: organ.channel for name, organ in vocabulary.organs.items()}
        ids = ids_by_organ(label_set, vocabulary)
        if channels is None:
            channels = list(dict.fromkeys(own[name] for name in own if ids[name]))
        names = tuple(channels)
        lesions = tuple(index for index, name in enumerate(names) if name in own.values())
        if not lesions and len(names) == 1:
            return cls(names, (0,), dict.fromkeys(own, 0), 0, ids)
        if not lesions:
            raise ValueError(
                f"channels: expected a channel of the vocabulary's organs ({', '.join(dict.fromkeys(own.values()))}), "
                f"or a single channel for all tumours, got {', '.join(names) or 'none'}"
            )
        return cls(names, lesions, {name: names.index(c) for name, c in own.items() if c in names}, None, ids)

    def get(self, organ: str) -> int | None:
        return self.by_organ.get(organ, self.any_organ)


@dataclass
class _Group:
    """Tumours whose regions touch each other."""

    ids: set[int]
    tumours: list[Tumour] = field(default_factory=list)

    def __str__(self) -> str:
        places = dict.fromkeys(format_place(tumour) for tumour in self.tumours)
        return f"{len(self.tumours)} tumour{'s' * (len(self.tumours) > 1)} in {'; '.join(places)}"


class _Sample:
    """One report on its crop."""

    def __init__(
        self,
        index: int,
        report: Report,
        label_set: LabelSet,
        vocabulary: Vocabulary,
        channels: _Channels,
        visible: Mapping[int, float] | None,
        unmentioned: Unmentioned,
    ) -> None:
        self.index, self.groups, self.notes = index, list[FindingGroup](), list[str]()
        self.unknown: dict[int, set[int]] = {channel: set() for channel in channels.lesions}
        self._report, self._label_set, self._vocabulary = report, label_set, vocabulary
        self._channels, self._visible, self._unmentioned = channels, visible, unmentioned
        self._placed: dict[int, list[_Group]] = {channel: [] for channel in channels.lesions}
        self._negative: dict[int, set[int]] = {channel: set() for channel in channels.lesions}
        self._unplaced = any(tumour.organ == "unknown" for tumour in report.tumours)

    def read(self) -> None:
        """Fill `groups`, `unknown` and `notes`."""
        for tumour in self._report.tumours:
            self._place(tumour)
        for channel in self._channels.lesions:
            self._placed[channel] = _joined(self._placed[channel])
            for group in self._placed[channel]:
                self._add(channel, group)
        if self._unplaced:
            for ids in self.unknown.values():
                ids |= {BACKGROUND, *self._label_set.ids.values()}
            self._note("a tumour whose organ is not said: nothing is known where no tumour is placed")
            return
        for place in self._report.negatives:
            self._exclude(place)
        if self._report.tumours or self._report.negatives:
            self._complete()

    def _note(self, text: str) -> None:
        self.notes.append(f"{self._report.id}: {text}")

    def _place(self, tumour: Tumour) -> None:
        """Put the tumour where it lies."""
        if tumour.organ == "unknown":
            return
        channel = self._channels.get(tumour.organ)
        place = format_place(tumour)
        if channel is None:
            self._note(f"tumour in {place}: left out, there is no channel for it")
            return
        ids = self._region(tumour)
        if ids:
            self._placed[channel].append(_Group(set(ids), [tumour]))
            return
        organs = self._channels.organ_ids.values()
        self.unknown[channel] |= {BACKGROUND, *self._label_set.ids.values()}.difference(*organs)
        missing = "is not in the scan" if ids is not None else "has no class in the label set"
        self._note(f"tumour in {place}: excluded, the organ {missing}; where no organ is, is unknown")

    def _region(self, place: Place) -> set[int] | None:
        """Label ids of the place in this scan; those of the organ where its part is not found; None without a class."""
        found = region(place, self._label_set, self._vocabulary)
        if found is None:
            return None
        return self._in_scan(found.ids) or self._in_scan(self._channels.organ_ids.get(place.organ, ()))

    def _in_scan(self, ids: Iterable[int]) -> set[int]:
        return set(ids) if self._visible is None else set(ids) & self._visible.keys()

    def _in_crop(self, ids: Iterable[int]) -> set[int]:
        return set(ids) if self._visible is None else {id for id in ids if self._visible.get(id, 0) > 0}

    def _add(self, channel: int, group: _Group) -> None:
        """A finding group, if the crop has all of its region."""
        visible = self._in_crop(group.ids)
        if not visible:
            self._note(f"{group}: excluded, outside the crop")
            return
        if self._visible is not None and any(self._visible[id] < 1 for id in group.ids):
            self.unknown[channel] |= visible
            self._note(f"{group}: excluded, the crop cuts the region, which is unknown")
            return
        counted = all(tumour.count_known and tumour.laterality != "bilateral" for tumour in group.tumours)
        tumours = tuple(map(self._sized, group.tumours))
        region = tuple(sorted(group.ids))
        self.groups.append(FindingGroup(self.index, channel, region, tumours, counted and not self._unplaced))

    def _sized(self, tumour: Tumour) -> rsuper_kernels.Tumour:
        """The tumour as the losses take it. A volume without diameters is that of a ball."""
        diameters = tumour.diameters
        if tumour.volume is not None and not diameters:
            diameters = ((6 / math.pi * tumour.volume) ** (1 / 3),)
            if diameters[0] > LARGEST_DIAMETER:
                self._note(f"tumour in {format_place(tumour)}: size unknown, {tumour.volume:g} mm3 is no tumour's")
                return rsuper_kernels.Tumour(attenuation=tumour.attenuation)
        if not diameters:
            return rsuper_kernels.Tumour(attenuation=tumour.attenuation)
        return rsuper_kernels.Tumour(diameters, tumour.volume, tumour.attenuation)

    def _exclude(self, place: Place) -> None:
        """A negative over the place, less what tumours or unknown regions touch."""
        channel = self._channels.get(place.organ)
        found = region(place, self._label_set, self._vocabulary)
        if channel is None or found is None:
            return
        if not found.exact:
            self._note(f"no tumour in {format_place(place)}: left out, the label set has no class for this place alone")
            return
        self._add_negative(channel, found.ids)

    def _add_negative(self, channel: int, ids: Iterable[int]) -> None:
        free = self._in_crop(ids) - self._taken(channel) - self.unknown[channel] - self._negative[channel]
        if free:
            self._negative[channel] |= free
            self.groups.append(FindingGroup(self.index, channel, tuple(sorted(free))))

    def _taken(self, channel: int) -> set[int]:
        """Label ids of all regions with tumours, in the crop or not."""
        return {id for group in self._placed[channel] for id in group.ids}

    def _complete(self) -> None:
        """Organs that the report does not mention, or not all of."""
        with_tumours = {tumour.organ for tumour in self._report.tumours}
        reported = {int(group.channel) for group in self.groups if not group.negative}
        for name in self._vocabulary.organs:
            channel = self._channels.get(name)
            if channel is None:
                continue
            ids = self._channels.organ_ids[name]
            if self._unmentioned == "negative":
                self._add_negative(channel, ids)
            elif channel in reported and name not in with_tumours:
                # the losses take a channel with a tumour as described in full, here other organs share it
                self.unknown[channel] |= self._in_crop(ids) - self._taken(channel) - self._negative[channel]


def _joined(groups: Sequence[_Group]) -> list[_Group]:
    """Groups that share a label id become one, in the order of their first tumours."""
    joined: list[_Group] = []
    for group in groups:
        touching = [other for other in joined if other.ids & group.ids]
        if not touching:
            joined.append(_Group(set(group.ids), list(group.tumours)))
            continue
        first = touching[0]
        for other in (*touching[1:], group):
            first.ids |= other.ids
            first.tumours += other.tumours
        joined = [other for other in joined if other is first or other not in touching]
    return joined
