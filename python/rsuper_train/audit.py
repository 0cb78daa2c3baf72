# SPDX-License-Identifier: Apache-2.0
"""Which cases to annotate next: those where the network and the reports disagree most.

<out>/cache/<case>/    the sites' crops with their probabilities, so that scoring again needs no network; crops of
                       other networks stay there until someone removes them
<out>/audit.html       the ranking, with pictures
<out>/audit.csv        a row a site, ranked
<out>/annotate.txt     ids of the first cases that have no masks
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy import ndimage

from rsuper_kernels import PAPER
from rsuper_train.audit_scores import SCORES, WEIGHTS, SiteScore, among, score_site
from rsuper_train.audit_sites import NotScored, Site, SiteReader
from rsuper_train.files import first_line, write_atomically, write_text
from rsuper_train.layout import LESION
from rsuper_train.manifest import CASES, CaseRecord, read_manifest
from rsuper_train.predict import Predictor, identity
from rsuper_train.processes import tell_failure
from rsuper_train.reports.schema import Report
from rsuper_train.reports.table import write_csv
from rsuper_train.store import SUFFIX, open_volume, write_volume

FAINT = 0.02
"""Lower probabilities count as 0: over a large organ they would sum up to the volume of a tumour."""
COLUMNS = (
    *("rank", "case", "total", "annotated", "place", "kind", "channel", *SCORES, "reported_mm3"),
    *("predicted_mm3", "reported_tumours", "predicted_tumours", "contrast_hu", "reasons"),
)
FAILED = "it failed"
SURROUNDINGS = 40.0
"""mm around what is predicted where the report has no tumour; for pictures."""


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
    """Cases by rank; those that were not scored, with the reason."""

    ranked: tuple[CaseScore, ...]
    left_out: dict[str, str]

    @property
    def failed(self) -> list[str]:
        return [id for id, reason in self.left_out.items() if reason.startswith(FAILED)]


def run_audit(
    prepared: Path,
    reports: Sequence[Report],
    predictor: Predictor,
    out: Path,
    console: Console,
    workers: int = 2,
) -> Audit:
    """Score every prepared case that has a report; one that fails does not stop the others.

    Args:
        prepared: folder that `rsuper prepare` wrote.
        reports: the ids of their cases are theirs.
        predictor: the network.
        out: where crops are cached.
        console: a line a case that fails.
        workers: threads that score.

    Raises:
        ValueError: no prepared data, or of another label set than that of the organs that the network takes.
    """
    manifest = read_manifest(prepared)
    if set(predictor.config.data.inputs) != {"ct"} and manifest.label_set != predictor.manifest.label_set:
        expected = predictor.manifest.label_set_name
        raise ValueError(
            f"{prepared}: the network takes organs of the label set {expected} as in training; "
            f"these are of {manifest.label_set_name}, or its ids have changed"
        )
    reader = SiteReader(manifest, predictor.channels, predictor.config.data.unmentioned)
    score = partial(score_site, threshold=predictor.options.threshold)
    known = {report.id for report in reports}
    left_out = {id: "it has no report" for id in manifest.cases if id not in known}
    running: dict[str, Iterator[SiteScore]] = {}
    cases: list[CaseScore] = []
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for report in track(reports, "predict", console=console, transient=True):
            with _noted(report.id, left_out, console):
                running[report.id] = pool.map(score, _cache(reader, report, prepared, predictor, out))
        for id, scores in track(running.items(), "score", console=console, transient=True):
            with _noted(id, left_out, console):
                cases.append(_case_score(manifest.cases[id], list(scores), predictor.channels))
    return Audit(tuple(sorted(cases, key=lambda case: (-case.total, case.id))), left_out)


@contextmanager
def _noted(id: str, left_out: dict[str, str], console: Console) -> Iterator[None]:
    """Note why a case is not scored, and go on; but where nothing can be written, there is no use in it."""
    try:
        yield
    except NotScored as reason:
        left_out[id] = str(reason)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        left_out[id] = f"{FAILED}: {first_line(error)}"
        tell_failure(console, id, first_line(error))


def _cache(reader: SiteReader, report: Report, prepared: Path, predictor: Predictor, out: Path) -> list[Site]:
    """The sites of a report with their crops on disk; the case is predicted if one is not there."""
    record = reader.record(report.id)
    folder = out / "cache" / record.id
    parts = [identity(predictor.provenance), FAINT, sorted(record.checksums.items()), record.spacing]
    sites = []
    for site in reader.sites(report, record):
        text = repr([*parts, predictor.channels[int(site.group.channel)], site.kind, site.group.region, site.reported])
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        sites.append(replace(site, crop=folder / f"{name}{SUFFIX}"))
    missing = [site for site in sites if not site.crop.is_file()]
    if missing:
        ct, labels = (open_volume(prepared / CASES / record.id / f"{name}{SUFFIX}")[...] for name in ("ct", "labels"))
        probabilities = predictor.probabilities(record, ct, labels)
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
    reach = PAPER.region_margin if site.kind == "reported" else SURROUNDINGS
    margins = [math.ceil(reach / step) for step in site.spacing]
    box = tuple(slice(max(axis.start - m, 0), axis.stop + m) for axis, m in zip(found[0], margins, strict=True))
    probability = np.where(probability[box] >= FAINT, probability[box], 0).astype(np.float16)
    stored = np.stack([probability.view(np.int16), ct[box], labels[box].astype(np.int16)])
    write_atomically(site.crop, lambda part: write_volume(part, stored))


def _case_score(record: CaseRecord, sites: Sequence[SiteScore], channels: Sequence[str]) -> CaseScore:
    scores: dict[str, float] = {}
    for site in sites:
        scores |= {name: max(score, scores.get(name, 0.0)) for name, score in site.scores.items()}
    total = sum(WEIGHTS[name] * score for name, score in scores.items())
    masks = record.lesions.keys() | ({LESION} if record.lesions else set())
    annotated = all(channels[int(site.site.group.channel)] in masks for site in sites)
    return CaseScore(record.id, tuple(sorted(sites, key=lambda s: -s.worst)), scores, total, annotated)


def write_lists(result: Audit, channels: Sequence[str], out: Path, count: int) -> None:
    """Write audit.csv, and the ids of the first `count` cases without masks to annotate.txt."""
    rows = (
        [rank, case.id, case.total, case.annotated, *_cells(score, channels)]
        for rank, case in enumerate(result.ranked, start=1)
        for score in case.sites
    )
    rounded = ([round(x, 4) if isinstance(x, float) else x for x in row] for row in rows)
    write_csv(out / "audit.csv", COLUMNS, rounded)
    ids = [case.id for case in result.ranked if not case.annotated][:count]
    write_text(out / "annotate.txt", "".join(f"{id}\n" for id in ids))


def _cells(score: SiteScore, channels: Sequence[str]) -> Iterator[Any]:
    """A site's part of a row of audit.csv."""
    site, group = score.site, score.site.group
    yield from (site.name, site.kind, channels[int(group.channel)], *map(score.scores.get, SCORES), group.volume)
    yield from (score.predicted, len(group.tumours), score.components, score.contrast, "; ".join(score.reasons))
