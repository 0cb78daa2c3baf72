# SPDX-License-Identifier: Apache-2.0
"""A folder of predictions against lesion masks and reports: tables of cases and lesions, figures as JSON, a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_curve

from rsuper_train import metrics
from rsuper_train.evaluation_cases import Job, Problem, Row, count, find_jobs, judge, measure
from rsuper_train.evaluation_page import write_page
from rsuper_train.files import write_text
from rsuper_train.metrics import Lesion, MaskScore, mean, ratio
from rsuper_train.processes import Failure, try_each_case
from rsuper_train.reports.public_tables import read_any_table
from rsuper_train.reports.table import write_csv
from rsuper_train.reports.vocabulary import load_vocabulary

Result = TypeVar("Result")


def evaluate(
    predictions: Path,
    truth: Path | None,
    out: Path,
    *,
    reports: Path | None = None,
    data: Path | None = None,
    validation: Path | None = None,
    validation_truth: Path | None = None,
    channels: Sequence[str] = (),
    recut: bool = False,
    workers: int = 1,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, Any]:
    """Judge predictions; writes cases.csv, lesions.csv, evaluation.html and evaluation.json, and returns the last.

    What cannot be judged is a problem with a line of its own, and the others go on.

    Args:
        predictions: as `rsuper predict` writes them.
        truth: cases with lesion masks, see `layout`.
        reports: table of tumours, the truth where a case has no mask.
        data: cases with the CTs, where `truth` does not have them.
        validation: predictions on which the operating point is chosen; by default it is the predictions' own.
        validation_truth: their masks; by default in `truth`.
        recut: judge masks that are cut at the operating point, instead of the masks as they were written.

    Raises:
        ValueError: no predictions, or none of which anything is known.
    """
    said = {report.id: report for report in read_any_table(reports, load_vocabulary())} if reports else {}
    jobs, problems = find_jobs(predictions, truth, data, said, channels)
    points = {job.channel: job.point for job in jobs}
    if validation is not None:
        known, troubles = find_jobs(validation, validation_truth or truth, None, said, list(points))
        if validation_truth is None:  # where cases are, too, that are not meant for validation
            judged = {job.case for job in jobs} - {job.case for job in known}
            troubles = [trouble for trouble in troubles if trouble.case not in judged]
        measured = _each(measure, known, troubles, workers, console)
        for name, own in points.items():
            some = [found for job, found in measured if job.channel == name]
            points[name] = metrics.choose_operating_point(some, own, str(validation))
        problems += [Problem(trouble.case, f"validation: {trouble.message}") for trouble in troubles]
        if seen := {job.case for job in jobs} & {job.case for job in known}:
            problems.append(Problem(count(len(seen)), "in the validation set, too, by their names"))
    jobs = [replace(job, point=points[job.channel], recut=recut) for job in jobs]
    rows = [row for _, row in _each(judge, jobs, problems, workers, console)]
    if not rows:
        why = "; ".join(f"{problem.case}: {problem.message}" for problem in problems[:3])
        raise ValueError(f"{predictions}: nothing can be judged. {why}")
    result = {
        "predictions": str(predictions),
        "truth": [str(path) for path in (truth, reports) if path],
        "masks": "cut at the operating point" if recut else "as written",
        "seed": seed,
        "problems": problems,
        "channels": {
            name: {"operating_point": point} | summarise([row for row in rows if row.job.channel == name], seed)
            for name, point in points.items()
        },
    }
    text = json.dumps(result, default=asdict, allow_nan=False, indent=1, ensure_ascii=False)
    _write_tables(rows, out)
    write_page(out / "evaluation.html", result, rows)
    write_text(out / "evaluation.json", text)
    return result


def _each(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    problems: list[Problem],
    workers: int,
    console: Console | None,
) -> list[tuple[Job, Result]]:
    """Jobs by channel and case, with what a function makes of them; those where it fails join the problems."""
    by_key = {f"{job.channel}/{job.case}": job for job in jobs}
    results = dict(
        track(try_each_case(function, by_key, workers), function.__name__, len(jobs), console=console, transient=True)
    )
    done = []
    for key in sorted(results):
        job, result = by_key[key], results[key]
        if isinstance(result, Failure):
            problems.append(Problem(job.case, f"{job.channel}: {result.message}"))
        else:
            done.append((job, result))
    return done


def summarise(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """All figures of a channel."""
    masks = [row.mask for row in rows if row.mask]
    lesions = [len(mask.lesions) for mask in masks]
    found = [sum(lesion.found for lesion in mask.lesions) for mask in masks]
    wrong = [len(mask.false_positives) for mask in masks]
    detected = np.add(found, wrong)
    positive, called = np.array([r.truth.positive for r in rows], bool), np.array([r.called for r in rows], bool)
    scores, hits = np.array([row.score for row in rows]), positive & called
    differences = [(r.predicted_mm3 - (r.truth.volume_mm3 or 0)) / 1000 for r in rows if r.mask and r.mask.lesions]
    roc = roc_curve(positive, scores) if 0 < positive.sum() < len(rows) else None
    return {
        "counts": {
            "cases": len(rows),
            "with_mask": len(masks),
            "with_tumour": int(positive.sum()),
            "lesions": sum(lesions),
        },
        "overlap": {
            "dsc": mean([mask.dice for mask in masks], seed),
            "nsd": mean([mask.nsd for mask in masks], seed),
            "volume_difference_ml": mean(differences, seed),
        },
        "lesions": {
            "sensitivity": ratio(found, lesions, seed),
            "precision": ratio(found, detected, seed),
            "f1": ratio(np.multiply(2, found), lesions + detected, seed),
            "false_positives_per_case": mean(wrong, seed),
        },
        "patients": {
            "sensitivity": ratio(hits, positive, seed),
            "specificity": ratio(~positive & ~called, ~positive, seed),
            "f1": ratio(2 * hits, positive.astype(int) + called, seed),
            "auc": metrics.area_under_curve(positive, scores, seed),
        },
        "strata": {name: _stratum(rows, *bounds, seed) for name, bounds in metrics.STRATA.items()},
        "roc": roc and {"false_positive_rate": roc[0].tolist(), "sensitivity": roc[1].tolist()},
        "froc": metrics.froc(masks),
    }


def _stratum(rows: Sequence[Row], low: float, high: float, seed: int) -> dict[str, Any]:
    """Lesions of a size, and cases whose largest lesion is of that size."""
    found = [[x.found for x in row.mask.lesions if low <= x.diameter_mm < high] for row in rows if row.mask]
    cases = [row for row in rows if row.truth.diameter_mm is not None and low <= row.truth.diameter_mm < high]
    return {
        "lesions": sum(map(len, found)),
        "lesion_sensitivity": ratio([*map(sum, found)], [*map(len, found)], seed),
        "cases": len(cases),
        "patient_sensitivity": mean([row.called for row in cases], seed),
        "dsc": mean([row.mask.dice for row in cases if row.mask], seed),
    }


def _write_tables(rows: Sequence[Row], out: Path) -> None:
    """Write cases.csv and lesions.csv."""
    cases, lesions = [], []
    for row in rows:
        where, mask = {"case": row.job.case, "channel": row.job.channel}, row.mask or MaskScore(None, None, (), ())
        truth = {f"true_{name}": value for name, value in asdict(row.truth).items()}
        scores: dict[str, Any] = {"predicted_mm3": row.predicted_mm3, "score": row.score, "called": row.called}
        scores |= {"dsc": mask.dice, "nsd": mask.nsd, "found": sum(lesion.found for lesion in mask.lesions)}
        cases.append(where | truth | scores | {"false_positives": len(mask.false_positives)})
        lesions += [where | {"lesion": n} | asdict(lesion) for n, lesion in enumerate(mask.lesions, start=1)]
    write_csv(out / "cases.csv", list(cases[0]), (case.values() for case in cases))
    columns = ("case", "channel", "lesion", *(field.name for field in fields(Lesion)))
    write_csv(out / "lesions.csv", columns, (lesion.values() for lesion in lesions))
