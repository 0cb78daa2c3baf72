# SPDX-License-Identifier: Apache-2.0
"""What of a report can be held against a prediction: sites with tumours, sites without, and the rest of organs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from rsuper_kernels import FindingGroup
from rsuper_train.axes import Spacing
from rsuper_train.manifest import CaseRecord, Manifest
from rsuper_train.reports.findings import BACKGROUND, Unmentioned, to_findings
from rsuper_train.reports.masks import ids_by_organ, region
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.vocabulary import load_vocabulary

AnyPlace = TypeVar("AnyPlace", bound=Place)


class NotScored(Exception):
    """Why a report cannot be held against a prediction."""


@dataclass(frozen=True)
class Site:
    """A place of one report that is scored.

    Args:
        kind: "reported" has tumours; "negative" is free of them, as the report says; "elsewhere" is the rest of an
            organ with reported tumours.
        name: for people.
        group: what the report says, over label ids; its channel is the network's.
        spacing: mm (D, H, W).
        reported: of "elsewhere": the groups of the organ's tumours.
        foreign: label ids of which other groups speak, or of which nothing is known.
        tumours: as reported.
        crop: where its crop lies; see `audit_scores.view`.
    """

    kind: Literal["reported", "negative", "elsewhere"]
    name: str
    group: FindingGroup
    spacing: Spacing
    reported: tuple[FindingGroup, ...] = ()
    foreign: frozenset[int] = frozenset()
    tumours: tuple[Tumour, ...] = ()
    crop: Path = Path()


class SiteReader:
    """Finds what of a report can be scored on a prepared case."""

    def __init__(self, manifest: Manifest, channels: Sequence[str], unmentioned: Unmentioned) -> None:
        self._manifest, self._channels, self._unmentioned = manifest, channels, unmentioned
        self._vocabulary, self._label_set = load_vocabulary(), manifest.classes
        self._organs = ids_by_organ(self._label_set, self._vocabulary)

    def record(self, id: str) -> CaseRecord:
        """The prepared case of a report; raises NotScored where there is none."""
        if record := self._manifest.cases.get(id):
            return record
        failed = self._manifest.failed.get(id)
        raise NotScored(f"it could not be prepared: {failed}" if failed else "it is not among the prepared cases")

    def sites(self, report: Report, record: CaseRecord) -> list[Site]:
        """The sites of a report; raises NotScored where there are none."""
        read = to_findings(
            [report],
            self._label_set,
            self._channels,
            self._vocabulary,
            unmentioned=self._unmentioned,
            visible=[dict.fromkeys(record.labels, 1.0)],
        )
        sites: list[Site] = []
        for (_, channel), indices in read.findings.planes().items():
            groups = [read.findings.groups[g] for g in indices]
            unknown = read.unknown.get((0, channel), frozenset()) - {BACKGROUND}
            sites += self._of_plane(groups, unknown, report, record)
        if not sites:
            said = report.tumours or report.negatives
            why = "; ".join(note.removeprefix(f"{report.id}: ") for note in read.notes) if said else ""
            raise NotScored(why or "the report names no tumour, and no organ without one, that the network looks for")
        return sites

    def _of_plane(
        self, groups: Sequence[FindingGroup], unknown: frozenset[int], report: Report, record: CaseRecord
    ) -> Iterator[Site]:
        """The sites of one channel."""
        taken = {group: frozenset(group.label_ids) for group in groups}
        spoken = unknown.union(*taken.values())
        for group in groups:
            if group.negative:
                yield Site("negative", self._name(report.negatives, taken[group]), group, record.spacing)
                continue
            tumours = self._among(report.tumours, taken[group])
            foreign = spoken - taken[group]
            yield Site(
                "reported", self._name(tumours, taken[group]), group, record.spacing, foreign=foreign, tumours=tumours
            )
        for organ in dict.fromkeys(tumour.organ for tumour in report.tumours):
            own = self._organs.get(organ, frozenset())
            reported = tuple(group for group in groups if not group.negative and taken[group] & own)
            rest = (own & record.labels.keys()) - spoken
            if reported and rest:
                group = FindingGroup(0, reported[0].channel, tuple(sorted(rest)))
                yield Site("elsewhere", organ, group, record.spacing, reported=reported)

    def _among(self, places: Sequence[AnyPlace], ids: frozenset[int]) -> tuple[AnyPlace, ...]:
        """The places of a group; those whose part is not in the scan are in that of the organ."""
        regions = {place: region(place, self._label_set, self._vocabulary) for place in places}
        exact = tuple(place for place, found in regions.items() if found and ids & set(found.ids))
        return exact or tuple(place for place in regions if ids & self._organs.get(place.organ, frozenset()))

    def _name(self, places: Sequence[Place], ids: frozenset[int]) -> str:
        return "; ".join(dict.fromkeys(map(str, self._among(places, ids))))
