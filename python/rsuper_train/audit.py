# SPDX-License-Identifier: Apache-2.0
"""Which cases to annotate next: those where the network and the reports disagree most.

<out>/cache/<case>/    the sites' crops with their probabilities, so that scoring again needs no network
<out>/audit.html       the ranking, with pictures
<out>/audit.csv        a row a site, ranked
<out>/annotate.txt     ids of the first cases that have no masks
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from scipy import ndimage

from rsuper_kernels import PAPER, FindingGroup
from rsuper_train.audit_scores import SCORES, WEIGHTS, Site, SiteScore, among, score_site
from rsuper_train.files import write_atomically
from rsuper_train.manifest import CASES, CaseRecord, Manifest, read_manifest
from rsuper_train.reports.findings import BACKGROUND, Unmentioned, to_findings
from rsuper_train.reports.masks import load_label_set, organ_ids, region
from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.table import as_cell
from rsuper_train.reports.vocabulary import load_vocabulary
from rsuper_train.store import SUFFIX, open_volume, write_volume

FAINT = 0.02
"""Lower probabilities count as 0: over a large organ they would sum up to the volume of a tumour."""


@dataclass(frozen=True)
class Source:
    """Where predictions come from.

    Args:
        channels: of the network that are predicted.
        probabilities: of a case's record, CT and label map: (C, D, H, W) on their grid.
        key: of a case's id: other predictions have another.
        threshold: probability from which a voxel is tumour.
        unmentioned: what is known of organs that a report does not mention.
    """

    channels: tuple[str, ...]
    probabilities: Callable[[CaseRecord, np.ndarray, np.ndarray], np.ndarray]
    key: Callable[[str], str]
    threshold: float = 0.5
    unmentioned: Unmentioned = "unknown"


@dataclass(frozen=True)
class CaseScore:
    """A case's sites, the worst first. Each of its scores is that of its worst site, the total their weighted sum."""

    id: str
    sites: tuple[SiteScore, ...]
    scores: dict[str, float]
    total: float
    annotated: bool

    @property
    def reasons(self) -> list[str]:
        return [reason for site in self.sites for reason in site.reasons]


@dataclass(frozen=True)
class Audit:
    """Cases by rank; and those that were not scored, with the reason."""

    ranked: tuple[CaseScore, ...]
    left_out: dict[str, str]


def audit(
    prepared: Path,
    reports: Sequence[Report],
    source: Source,
    out: Path,
    console: Console,
    weights: Mapping[str, float] = WEIGHTS,
    workers: int = 2,
) -> Audit:
    """Score every prepared case that has a report; one that fails does not stop the others.

    Args:
        prepared: folder that `rsuper prepare` wrote.
        reports: the ids of their cases are theirs.
        source: of the predictions.
        out: where crops are cached.
        console: a line a case that fails.
        weights: of the scores in the total.
        workers: threads that score.
    """
    manifest = read_manifest(prepared)
    reader = SiteReader(manifest, source)
    left_out = dict.fromkeys(manifest.cases, "it has no report")
    sites: dict[str, list[Site]] = {}
    for report in track(reports, "predict", console=console, transient=True):
        try:
            sites[report.id] = _cache(reader, report, prepared, source, out)
            left_out.pop(report.id)
        except NotScored as error:
            left_out[report.id] = str(error)
        except (OSError, RuntimeError, ValueError) as error:
            left_out[report.id] = f"it failed: {error}"
            console.print(f"[red]{escape(report.id)}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
    jobs = [(id, site) for id, some in sites.items() for site in some]
    scores = score_sites([site for _, site in jobs], source.threshold, workers)
    by_case: dict[str, list[SiteScore]] = {}
    for (id, _), score in zip(jobs, track(scores, "score", len(jobs), console=console, transient=True), strict=True):
        by_case.setdefault(id, []).append(score)
    cases = [_case_score(manifest.cases[id], some, source.channels, weights) for id, some in by_case.items()]
    return Audit(tuple(sorted(cases, key=lambda case: (-case.total, case.id))), left_out)


class NotScored(Exception):
    """Why a report cannot be held against a prediction."""


class SiteReader:
    """Finds what of a report can be scored on a prepared case."""

    def __init__(self, manifest: Manifest, source: Source) -> None:
        self._manifest, self._source = manifest, source
        self._vocabulary, self._label_set = load_vocabulary(), load_label_set(manifest.label_set_name)
        self._organs = {name: organ_ids(name, self._label_set, self._vocabulary) for name in self._vocabulary.organs}

    def record(self, id: str) -> CaseRecord:
        if id not in self._manifest.cases:
            failed = self._manifest.failed.get(id)
            raise NotScored(f"it could not be prepared: {failed}" if failed else "it is not among the prepared cases")
        return self._manifest.cases[id]

    def sites(self, report: Report) -> list[Site]:
        """The sites of a report.

        Raises:
            NotScored: there are none.
        """
        record = self.record(report.id)
        read = to_findings(
            [report],
            self._label_set,
            self._source.channels,
            self._vocabulary,
            unmentioned=self._source.unmentioned,
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
                yield Site("negative", self._name(taken[group], record), group, record.spacing)
                continue
            tumours = self._tumours(report, taken[group])
            name = "; ".join(dict.fromkeys(map(str, tumours)))
            foreign = spoken - taken[group]
            yield Site("reported", name, group, record.spacing, foreign=foreign, tumours=tumours)
        for organ in dict.fromkeys(tumour.organ for tumour in report.tumours):
            own = self._organs.get(organ, frozenset())
            reported = tuple(group for group in groups if not group.negative and taken[group] & own)
            rest = (own & record.labels.keys()) - spoken
            if reported and rest:
                group = FindingGroup(0, reported[0].channel, tuple(sorted(rest)))
                yield Site("elsewhere", organ, group, record.spacing, reported=reported)

    def _tumours(self, report: Report, ids: frozenset[int]) -> tuple[Tumour, ...]:
        """The tumours of a group; those whose part is not in the scan are in that of the organ."""
        places = {tumour: region(tumour, self._label_set, self._vocabulary) for tumour in report.tumours}
        exact = tuple(tumour for tumour, place in places.items() if place and ids & set(place.ids))
        return exact or tuple(tumour for tumour in places if ids & self._organs.get(tumour.organ, frozenset()))

    def _name(self, ids: frozenset[int], record: CaseRecord) -> str:
        """The organ with these ids, or their classes."""
        whole = [name for name, own in self._organs.items() if own & record.labels.keys() == ids]
        classes = [name.replace("_", " ") for name, id in self._label_set.ids.items() if id in ids]
        return whole[0] if whole else ", ".join(classes)


def _cache(reader: SiteReader, report: Report, prepared: Path, source: Source, out: Path) -> list[Site]:
    """The sites of a report with their crops on disk; the case is predicted if one is not there."""
    record = reader.record(report.id)
    folder = out / "cache" / record.id
    parts = [source.key(record.id), FAINT, sorted(record.checksums.items()), record.spacing]
    sites = []
    for site in reader.sites(report):
        text = repr([*parts, source.channels[int(site.group.channel)], site.kind, site.group.region, site.reported])
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        sites.append(replace(site, crop=folder / f"{name}{SUFFIX}"))
    missing = [site for site in sites if not site.crop.is_file()]
    if missing:
        ct, labels = (open_volume(prepared / CASES / record.id / f"{name}{SUFFIX}")[...] for name in ("ct", "labels"))
        probabilities = source.probabilities(record, ct, labels)
        if not np.isfinite(probabilities).all():
            raise ValueError("the network's output is not a number")
        for site in missing:
            _write_crop(site, probabilities[int(site.group.channel)], ct, labels)
    return sites


def _write_crop(site: Site, probability: np.ndarray, ct: np.ndarray, labels: np.ndarray) -> None:
    """Write probabilities (float16), CT and labels of a site as one array of int16.

    Where the report has no tumour, only what is predicted matters: the crop is no larger than that, and its margin.
    """
    mask = among(labels, site.group.label_ids)
    if site.kind != "reported":
        mask &= probability >= FAINT
    found = ndimage.find_objects(mask.astype(np.int8)) or [(slice(0, 1),) * 3]
    margins = [math.ceil(PAPER.region_margin / step) for step in site.spacing]
    box = tuple(slice(max(axis.start - m, 0), axis.stop + m) for axis, m in zip(found[0], margins, strict=True))
    probability = np.where(probability[box] >= FAINT, probability[box], 0).astype(np.float16)
    stored = np.stack([probability.view(np.int16), ct[box], labels[box].astype(np.int16)])
    write_atomically(site.crop, lambda part: write_volume(part, stored))


def score_sites(sites: Sequence[Site], threshold: float, workers: int) -> Iterator[SiteScore]:
    """Scores of sites whose crops are on disk, in order."""
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(partial(score_site, threshold=threshold), sites)


def _case_score(
    record: CaseRecord, sites: Sequence[SiteScore], channels: Sequence[str], weights: Mapping[str, float]
) -> CaseScore:
    scores = {
        name: max(site.scores[name] for site in sites if name in site.scores)
        for name in SCORES
        if any(name in site.scores for site in sites)
    }
    total = sum(weights[name] * score for name, score in scores.items())
    annotated = all(channels[int(site.site.group.channel)] in record.lesions for site in sites)
    return CaseScore(record.id, tuple(sorted(sites, key=lambda s: -s.worst)), scores, total, annotated)


def write_lists(result: Audit, channels: Sequence[str], out: Path, count: int) -> None:
    """Write audit.csv, and the ids of the first `count` cases without masks to annotate.txt."""
    columns = ["rank", "case", "total", "annotated", "place", "kind", "channel", *SCORES, "reported_mm3"]
    columns += ["predicted_mm3", "reported_tumours", "predicted_tumours", "contrast_hu", "reasons"]

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for rank, case in enumerate(result.ranked, start=1):
                for score in case.sites:
                    group = score.site.group
                    row = [rank, case.id, case.total, case.annotated, score.site.name, score.site.kind]
                    row += [channels[int(group.channel)], *map(score.scores.get, SCORES), group.volume]
                    row += [score.predicted, len(group.tumours), score.components, score.contrast]
                    writer.writerow(map(as_cell, [*row, "; ".join(score.reasons)]))

    write_atomically(out / "audit.csv", write)
    ids = [case.id for case in result.ranked if not case.annotated][:count]
    write_atomically(out / "annotate.txt", lambda part: part.write_text("".join(f"{id}\n" for id in ids), "utf-8"))
