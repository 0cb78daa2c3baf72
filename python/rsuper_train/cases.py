# SPDX-License-Identifier: Apache-2.0
"""Prepared cases with their reports: what is known of each, and which of them are trained on."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from rsuper_kernels import FindingGroup
from rsuper_train.axes import Box, Voxels
from rsuper_train.config import Data
from rsuper_train.layout import LESION
from rsuper_train.manifest import read_manifest
from rsuper_train.reports.findings import CropFindings, to_findings
from rsuper_train.reports.masks import ids_by_organ
from rsuper_train.reports.public_tables import read_any_table
from rsuper_train.reports.schema import NO_ANSWER, NO_TEXT, Report
from rsuper_train.reports.vocabulary import load_vocabulary


class Cases:
    """Prepared cases, their reports, and which are trained on.

    A mask case has a mask for at least one lesion channel of the network. A report case has none, and a report that
    says something of the organs in its CT. Others are not used.

    What is known of a lesion channel in a case comes from its mask, else from the report, else nothing is. "lesion"
    stands for the tumours of all organs: any mask counts as its mask. Where the case lacks masks that other cases have,
    that union is known in the organs of the masks that are there, and nowhere else.

    Attributes:
        lesions: the network's lesion channels.
        mask_cases, report_cases: ids to train on, sorted.
        validation: ids of both kinds that are kept from training, sorted.
        groups: report case -> what its report says of the whole CT.
        notes: what a person should know before training for long, a sentence each.

    Raises:
        FileNotFoundError: there is no manifest, table of reports or list of validation cases at the path given.
        ValueError: a channel that is neither one of lesions nor a class of the label set; a file that is no table of
            tumours; a list of validation cases that names none of the cases.
    """

    def __init__(self, data: Data) -> None:
        self.data, self.manifest = data, read_manifest(data.prepared)
        self.label_set, self.vocabulary = self.manifest.classes, load_vocabulary()
        self._ids = ids_by_organ(self.label_set, self.vocabulary)
        self.lesions = self._lesion_channels()
        self.notes: list[str] = []
        self.reports = self._read_reports()
        masked = {id for id in self.manifest.cases if self.annotated(id)}
        self.groups = self._groups(sorted(self.reports.keys() - masked))
        held_out = self._held_out()
        self.mask_cases = tuple(sorted(masked - held_out))
        self.report_cases = tuple(sorted(self.groups.keys() - held_out))
        self.validation = tuple(sorted((masked | self.groups.keys()) & held_out))
        self._note_gaps(masked)

    def annotated(self, id: str) -> tuple[str, ...]:
        """The network's lesion channels that the case has a mask for."""
        masks = self.manifest.cases[id].lesions
        return tuple(name for name in self.lesions if name in masks or (name == LESION and masks))

    def masks(self, id: str, channel: str) -> tuple[str, ...]:
        """The case's masks whose union an annotated channel is."""
        return tuple(self.manifest.cases[id].lesions) if channel == LESION else (channel,)

    def known_labels(self, id: str) -> frozenset[int] | None:
        """Label ids in which the union of the case's masks holds all tumours; None: everywhere."""
        masks = self.manifest.cases[id].lesions
        if LESION in masks or set(self.manifest.channels) - {LESION} <= masks.keys():
            return None
        return self._organ_ids(masks)

    def tumour_boxes(self, id: str) -> list[Box]:
        """Boxes of the regions in which the report of a report case places tumours."""
        labels = self.manifest.cases[id].labels
        return [_union(labels[i].box for i in group.label_ids) for group in self.groups[id] if not group.negative]

    def negative_boxes(self, id: str) -> list[Box]:
        """Boxes of the labels that it says are free of tumours."""
        labels = self.manifest.cases[id].labels
        return [_union([labels[i].box]) for group in self.groups[id] if group.negative for i in group.label_ids]

    def organ_boxes(self, id: str) -> list[Box]:
        """Boxes of the labels of organs whose tumours the network finds; of all labels where there are none."""
        wanted = self._organ_ids(self.lesions)
        boxes = {label: extent.box for label, extent in self.manifest.cases[id].labels.items() if extent.box}
        return [box for label, box in boxes.items() if label in wanted] or list(boxes.values())

    def findings(self, ids: Sequence[str], visible: Sequence[Mapping[int, float]]) -> CropFindings:
        """What the reports of cases say of a crop of each, over `lesions`; nothing where there is no report.

        Args:
            ids: the cases.
            visible: of each, label id -> fraction of the label's voxels in the crop, for every label of the case.
        """
        reports = [self.reports.get(id, Report(id=id)) for id in ids]
        words, unmentioned = self.vocabulary, self.data.unmentioned
        return to_findings(reports, self.label_set, self.lesions, words, unmentioned=unmentioned, visible=visible)

    def _organ_ids(self, channels: Iterable[str]) -> frozenset[int]:
        """Label ids of the organs whose tumours the channels hold."""
        organs = {name for channel in channels for name in self.vocabulary.organs_of(channel)}
        return frozenset[int]().union(*(self._ids[name] for name in organs))

    def _lesion_channels(self) -> tuple[str, ...]:
        known = {LESION, *(organ.channel for organ in self.vocabulary.organs.values())}
        for name in self.data.channels:
            if name not in known and name not in self.label_set.ids:
                near = difflib.get_close_matches(name, [*known, *self.label_set.ids], n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"those of lesions are {', '.join(sorted(known))}"
                raise ValueError(
                    f"data.channels: {name!r} is neither a lesion channel nor a class of the labels; {hint}"
                )
        lesions = tuple(name for name in self.data.channels if name in known)
        repeated = len(set(self.data.channels)) < len(self.data.channels)
        if not lesions or (LESION in lesions and len(lesions) > 1) or repeated:
            raise ValueError(
                f"data.channels: expected {LESION!r}, or lesion channels of organs such as 'liver_lesion', not "
                f"both, each once; got {', '.join(self.data.channels)}"
            )
        return lesions

    def _read_reports(self) -> dict[str, Report]:
        """The reports of the prepared cases that have been read."""
        if self.data.reports is None:
            return {}
        if not self.data.reports.is_file():
            raise FileNotFoundError(
                f"data.reports: there is no file {self.data.reports}; make one with `rsuper reports extract`, or leave "
                "data.reports out to train on masks alone"
            )
        reports = {report.id: report for report in read_any_table(self.data.reports, self.vocabulary)}
        self._note("reports of cases that are not prepared", reports.keys() - self.manifest.cases.keys())
        unread = {id for id, report in reports.items() if any(f.startswith((NO_TEXT, NO_ANSWER)) for f in report.flags)}
        self._note("reports without text, or not read by the model: they say nothing", unread)
        return {id: report for id, report in reports.items() if id in self.manifest.cases and id not in unread}

    def _groups(self, ids: Sequence[str]) -> dict[str, list[FindingGroup]]:
        """What reports say of whole CTs; cases without any of it are left out."""
        groups: dict[str, list[FindingGroup]] = {}
        whole = [dict.fromkeys(self.manifest.cases[id].labels, 1.0) for id in ids]
        for group in self.findings(ids, whole).findings.groups:
            groups.setdefault(ids[group.sample], []).append(group)
        self._note("reports that say nothing about organs found in the CT", set(ids) - groups.keys())
        return groups

    def _held_out(self) -> set[str]:
        chosen = self.data.validation
        if isinstance(chosen, float):
            return {id for id in self.manifest.cases if _share(id) < chosen}
        if not chosen.is_file():
            raise FileNotFoundError(f"data.validation: there is no file {chosen}; expected a share, or one id a line")
        lines = chosen.read_text(encoding="utf-8-sig").splitlines()
        wanted = {line.strip() for line in lines if line.strip()}
        held_out = wanted & self.manifest.cases.keys()
        if not held_out:
            raise ValueError(f"data.validation: {chosen} names none of the {len(self.manifest.cases)} prepared cases")
        self._note(f"validation cases of {chosen} that are not prepared", wanted - held_out)
        return held_out

    def _note_gaps(self, masked: set[str]) -> None:
        cases, patch = self.manifest.cases, self.data.patch
        self._note(
            "cases with neither a mask for data.channels nor a report: not used",
            cases.keys() - masked - self.reports.keys(),
        )
        boxes = {id: self.tumour_boxes(id) for id in self.report_cases}
        large = [id for id in boxes if boxes[id] and not any(fits(box, patch, cases[id].shape) for box in boxes[id])]
        size = " x ".join(map(str, patch))
        self._note(f"reports whose tumours teach nothing: no region of theirs fits a patch of {size}", large)
        spoken = {name for id in self.mask_cases for name in self.annotated(id)}
        spoken |= {self.lesions[int(group.channel)] for id in self.report_cases for group in self.groups[id]}
        self._note("channels that no case to train on says anything about", set(self.lesions) - spoken)

    def _note(self, what: str, names: Collection[str]) -> None:
        if names:
            shown = ", ".join(sorted(names)[:5])
            self.notes.append(f"{what}: {len(names)} ({shown}{', ...' if len(names) > 5 else ''})")


def fits(box: Box, size: Voxels, shape: Voxels) -> bool:
    """Whether a crop can hold the box with a voxel around it, as far as the volume goes."""
    return all(min(end + 1, n) - max(first - 1, 0) <= s for (first, end), s, n in zip(box, size, shape, strict=True))


def _union(boxes: Iterable[Box | None]) -> Box:
    edges = np.array([box for box in boxes if box is not None])
    first, end = edges[..., 0].min(0).tolist(), edges[..., 1].max(0).tolist()
    return ((first[0], end[0]), (first[1], end[1]), (first[2], end[2]))


def _share(id: str) -> float:
    """A number from 0 to 1 that depends on the id alone, so that more cases do not move those that are there."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:8], "big") / 2**64
