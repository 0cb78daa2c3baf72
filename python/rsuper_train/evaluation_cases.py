# SPDX-License-Identifier: Apache-2.0
"""The cases of an evaluation: predictions paired with what is known about them, read, and judged one by one.

A case is judged by its mask in a channel; without one by its report, for the patient alone; without either it is left
out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsuper_train import metrics
from rsuper_train.files import read_map
from rsuper_train.layout import LESION, PREDICTION, PROBABILITIES, CaseFiles, find_cases, list_cases
from rsuper_train.masks import box_of, component_volumes
from rsuper_train.metrics import MaskScore, OperatingPoint, Truth
from rsuper_train.nifti import Grid, Image
from rsuper_train.reports.schema import Report
from rsuper_train.reports.vocabulary import Vocabulary, load_vocabulary

SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """One case in one channel.

    Args:
        prediction: folder of its prediction.
        masks: their union is the truth; without any, `reported` is.
        ct: for pictures.
        recut: cut the mask from the probabilities at `point`, instead of taking it as it was written.
    """

    case: str
    channel: str
    prediction: Path
    masks: tuple[Path, ...]
    reported: Truth | None
    ct: Path | None
    point: OperatingPoint
    recut: bool = False


@dataclass(frozen=True)
class Row:
    """The scores of a case in a channel; `mask` is None where a report is the truth."""

    job: Job
    truth: Truth
    score: float
    called: bool
    predicted_mm3: float
    mask: MaskScore | None


@dataclass(frozen=True)
class Problem:
    """A case that is not judged, or should not have been, and why."""

    case: str
    message: str


def find_jobs(
    predictions: Path, truth: Path | None, data: Path | None, reports: Mapping[str, Report], channels: Sequence[str]
) -> tuple[list[Job], list[Problem]]:
    """Pair the predictions with what is known; without `channels`, in all that were predicted."""
    folders = list_cases(predictions)
    finished = {case: folder for case, folder in folders.items() if (folder / PREDICTION).is_file()}
    if not finished:
        raise ValueError(f"{predictions}: no finished prediction; expected <case>/{PREDICTION} and masks beside it")
    files = (path.name for folder in finished.values() for path in folder.glob(f"*{SUFFIX}"))
    channels = channels or sorted({name.removesuffix(SUFFIX) for name in files})
    cases = find_cases(truth) if truth else {}
    cts = {case: files.ct for case, files in (cases | (find_cases(data) if data else {})).items()}
    vocabulary, point = load_vocabulary(), _read_point(next(iter(finished.values())) / PREDICTION)
    jobs, problems, unknown = [], [], Counter[str]()
    for case in sorted({*cases, *folders}):
        for channel in channels:
            masks = _masks(cases[case], channel) if case in cases else ()
            said = report_truth(reports[case], channel, vocabulary) if case in reports else None
            if not masks and said is None:
                unknown[channel] += 1
            elif case not in finished or not (finished[case] / f"{channel}{SUFFIX}").is_file():
                problems.append(Problem(case, f"{channel}: no finished prediction; run `rsuper predict` on it"))
            else:
                jobs.append(Job(case, channel, finished[case], masks, said, cts.get(case), point))
    problems += [Problem(count(n), f"{channel}: neither mask nor report") for channel, n in unknown.items()]
    stray = sorted(reports.keys() - cases.keys() - folders.keys())
    if stray and unknown:  # perhaps under another name; otherwise it is a table of more cases
        shown = f"{', '.join(stray[:5])}{', ...' * (len(stray) > 5)}"
        problems.append(Problem(count(len(stray)), f"in the table of reports, but not among the predictions: {shown}"))
    return jobs, problems


def count(n: int) -> str:
    return f"{n} case{'' if n == 1 else 's'}"


def _masks(files: CaseFiles, channel: str) -> tuple[Path, ...]:
    if channel == LESION and LESION not in files.lesions:
        return tuple(files.lesions.values())
    return (files.lesions[channel],) if channel in files.lesions else ()


def _read_point(path: Path) -> OperatingPoint:
    """The operating point at which predictions were written."""
    said = read_map(path, "what `rsuper predict` wrote about a case")
    smallest = said.get("provenance", {}).get("options", {}).get("smallest", 0.0)
    return OperatingPoint(float(said.get("threshold", 0.5)), float(smallest), "the prediction's own, not tuned")


def report_truth(report: Report, channel: str, vocabulary: Vocabulary) -> Truth | None:
    """What a report says about the tumours of a channel; None where it does not speak of all of its organs.

    For "lesion", whose organs are all that there are, a report without a tumour has to speak of one.
    """
    organs = set(vocabulary.organs_of(channel))
    tumours = [tumour for tumour in report.tumours if tumour.organ in organs or channel == LESION]
    if tumours:
        counted = all(tumour.count_known and tumour.laterality != "bilateral" for tumour in tumours)
        sizes = [tumour.ellipsoid for tumour in tumours if tumour.ellipsoid is not None]
        complete = counted and len(sizes) == len(tumours)
        largest = metrics.ball_diameter(max(sizes)) if sizes else None
        return Truth("report", True, len(tumours) if counted else None, sum(sizes) if complete else None, largest)
    sides = {(place.organ, place.laterality) for place in report.negatives if not place.subsegments}
    free = {o for o in organs if {(o, None), (o, "bilateral")} & sides or {(o, "left"), (o, "right")} <= sides}
    if not free or (channel != LESION and free != organs) or any(t.organ == "unknown" for t in report.tumours):
        return None
    return Truth("report", False, 0, 0.0)


def load(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Grid]:
    """Predicted mask, probabilities, true mask if any, all (D, H, W), and their grid; ValueError if it is not one."""
    image = Image(job.prediction / f"{job.channel}{SUFFIX}")
    predicted = image.read() > 0.5

    def read(path: Path, dtype: type | None = None) -> np.ndarray:
        return Image(path, image.grid, "the prediction").read(dtype)

    path = job.prediction / PROBABILITIES / f"{job.channel}{SUFFIX}"
    probability = read(path, np.float32) if path.is_file() else predicted.astype(np.float32)
    if not np.isfinite(probability.max()):
        raise ValueError(f"{path}: not all voxels are numbers")
    truths = [read(path) > 0.5 for path in job.masks]
    if job.recut:
        predicted = metrics.segment(probability, image.grid.spacing, job.point)
    return predicted, probability, np.logical_or.reduce(truths) if truths else None, image.grid


def judge(job: Job) -> Row:
    """Score a case."""
    predicted, probability, mask, grid = load(job)
    scored, truth, spacing = None, job.reported, grid.spacing
    if mask is not None:
        scored = metrics.score_mask(predicted, mask, probability, spacing)
        volumes, diameters = [x.volume_mm3 for x in scored.lesions], [x.diameter_mm for x in scored.lesions]
        truth = Truth("mask", bool(volumes), len(volumes), sum(volumes), max(diameters, default=None))
    assert truth is not None
    score = metrics.patient_score(probability, spacing, job.point.smallest_mm3)
    volume = float(np.count_nonzero(predicted) * math.prod(spacing))
    return Row(job, truth, score, score >= job.point.threshold, volume, scored)


def measure(job: Job) -> tuple[Truth, list[np.ndarray]]:
    """A validation case, as `choose_operating_point` takes it."""
    _, probability, mask, grid = load(job)
    truth = job.reported if mask is None else Truth("mask", bool(mask.any()))
    assert truth is not None
    probability, voxel = probability[box_of(probability >= min(metrics.THRESHOLDS))], math.prod(grid.spacing)
    return truth, [component_volumes(probability >= level, voxel) for level in metrics.THRESHOLDS]
