# SPDX-License-Identifier: Apache-2.0
"""A synthetic cohort as a dataset on disk, in the layout of a user's own folder, and apart from it the hidden truth.

<out>/cases/<case>/ct.nii.gz, segmentations/<class>.nii.gz or labels.nii.gz, lesions/<channel>.nii.gz (some cases)
<out>/reports.csv                 id, report
<out>/truth/<case>/lesions/<channel>.nii.gz, truth.json (text and contents of the report)
<out>/truth.csv                   the table of the true tumours
<out>/cohort.json                 the options
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.progress import track

from rsuper_train.cohort.anatomy import load_anatomy
from rsuper_train.cohort.case import Case, Truth
from rsuper_train.cohort.phantom import LABEL_SET, PHANTOM_PLACES, PhantomOptions, make_phantom
from rsuper_train.cohort.real_ct import make_case
from rsuper_train.files import read_map, write_atomically
from rsuper_train.reports.generator import PLACES
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Report
from rsuper_train.reports.table import write_table
from rsuper_train.reports.vocabulary import load_vocabulary

_SETS = {"phantom": (LABEL_SET, PHANTOM_PLACES), "ct": ("totalsegmentator", PLACES)}


@dataclass(frozen=True)
class CohortOptions:
    """What is written.

    Args:
        kind: "phantom" (ellipsoids; AbdomenAtlas labels) or "ct" (deformed copies of the CT of examples/data;
            TotalSegmentator labels).
        cases: how many.
        masks: the first so many cases come with lesion masks, empty ones included.
        seed: with it and its number, a case is always the same.
        start: number of the first case; ranges that do not overlap are disjoint cohorts of one seed.
        label_map: organs as one labels.nii.gz, which is faster, instead of a mask for each class.
        turned: axes of the files in an order and with directions drawn for each case; otherwise right, anterior, head.
        phantom: of kind "phantom" alone.
    """

    kind: Literal["phantom", "ct"] = "phantom"
    cases: int = 70
    masks: int = 10
    seed: int = 0
    start: int = 0
    label_map: bool = False
    turned: bool = False
    phantom: PhantomOptions = field(default_factory=PhantomOptions)

    def __post_init__(self) -> None:
        if self.kind not in _SETS:
            raise ValueError(f"kind: expected phantom or ct, got {self.kind!r}")
        if self.cases < 1 or not 0 <= self.masks <= self.cases:
            raise ValueError(f"masks: expected from 0 to the number of cases, got {self.masks} of {self.cases}")
        if min(self.seed, self.start) < 0:
            raise ValueError(f"seed and start: expected numbers from 0, got {self.seed} and {self.start}")

    @property
    def label_set(self) -> str:
        """Name of the label set of the organs."""
        return _SETS[self.kind][0]

    @property
    def channels(self) -> tuple[str, ...]:
        """Lesion channels that the cohort can have."""
        organs = load_vocabulary().organs
        return tuple(dict.fromkeys(str(organs[place.organ].channel) for place in _SETS[self.kind][1]))

    def case_id(self, number: int) -> str:
        return f"{self.kind}-{number:04d}"

    def make(self, number: int) -> tuple[Case, Truth]:
        """The case of that number, whatever `cases` and `start` are."""
        rng, case_id = np.random.default_rng([self.seed, number, *self.kind.encode()]), self.case_id(number)
        return (
            make_phantom(self.phantom, rng, case_id) if self.kind == "phantom" else make_case(_anatomy(), rng, case_id)
        )


_anatomy = cache(load_anatomy)


def write_cohort(options: CohortOptions, out: Path, workers: int = 1, console: Console | None = None) -> None:
    """Write the cohort; each case is there as a whole or not at all, and those that are there are not written again.

    Args:
        options: what to write.
        out: the folder; one that holds a cohort of the same options is completed, or grows to more cases.
        workers: processes.
        console: shows the progress; None shows nothing.

    Raises:
        ValueError: the folder holds a cohort of other options.
    """
    _claim(options, out)
    numbers = range(options.start, options.start + options.cases)
    missing = [number for number in numbers if not (out / "cases" / options.case_id(number)).is_dir()]
    written = _write_cases(options, out, missing, workers)
    for _ in track(written, "cohort", len(missing), console=console, disable=console is None, transient=True):
        pass
    shutil.rmtree(out / ".unfinished", ignore_errors=True)
    _write_tables(out)


def _claim(options: CohortOptions, out: Path) -> None:
    """Write the options, or hold them against those that are there."""
    path = out / "cohort.json"
    ours = json.loads(json.dumps(dataclasses.asdict(options)))
    if path.is_file():
        theirs = read_map(path, "the options of a cohort")
        for name in ours.keys() - {"cases"}:
            if ours[name] != theirs.get(name):
                raise ValueError(
                    f"{out}: there is a cohort with {name} {theirs.get(name)!r} here, not {ours[name]!r}; "
                    "choose another folder or the same options"
                )
    write_atomically(path, lambda part: part.write_text(json.dumps(ours, indent=1), encoding="utf-8"))


def _write_cases(options: CohortOptions, out: Path, numbers: list[int], workers: int) -> Iterator[None]:
    if workers < 2 or len(numbers) < 2:
        for number in numbers:
            yield _write_case(options, out, number)
        return
    # spawned, since a forked copy of a process with threads may hang
    with ProcessPoolExecutor(min(workers, len(numbers)), get_context("spawn")) as pool:
        try:
            for done in as_completed([pool.submit(_write_case, options, out, number) for number in numbers]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_case(options: CohortOptions, out: Path, number: int) -> None:
    """Write a case and its truth beside their places, then move them there, the case last."""
    case, truth = options.make(number)
    unfinished, there = out / ".unfinished" / case.case_id, out / "truth" / case.case_id
    for folder in (unfinished, there):
        shutil.rmtree(folder, ignore_errors=True)
    save = _Writer(case, options, number)
    save.image(unfinished / "case" / "ct.nii.gz", np.clip(np.rint(case.ct), -1024, 3071).astype(np.int16))
    save.organs(unfinished / "case")
    save.lesions(unfinished / "truth" / "lesions", truth)
    if number - options.start < options.masks:
        shutil.copytree(unfinished / "truth" / "lesions", unfinished / "case" / "lesions")
    said = {"text": case.report, "report": truth.report.model_dump(mode="json")}
    (unfinished / "truth" / "truth.json").write_text(json.dumps(said, indent=1), encoding="utf-8")
    for name, place in (("truth", there), ("case", out / "cases" / case.case_id)):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, place)


class _Writer:
    """Saves arrays (D, H, W) of one case."""

    def __init__(self, case: Case, options: CohortOptions, number: int) -> None:
        self._case, self._options = case, options
        self._label_set = load_label_set(options.label_set).ids
        self._axes = np.array([[0, 1], [1, 1], [2, 1]])
        if options.turned:
            rng = np.random.default_rng([options.seed, number, *b"turned"])
            self._axes = np.stack([rng.permutation(3), rng.choice([-1, 1], 3)], axis=1)

    def image(self, path: Path, array: np.ndarray) -> None:
        spacing = np.array(self._case.spacing[::-1])
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -spacing * (np.array(array.shape[::-1]) - 1) / 2
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.Nifti1Image(array.transpose(2, 1, 0), affine).as_reoriented(self._axes).to_filename(path)

    def organs(self, folder: Path) -> None:
        labels = self._case.labels
        if self._options.label_map:
            self.image(folder / "labels.nii.gz", labels)
            return
        present = set(np.unique(labels).tolist())
        for name in self._label_set:
            # the mask of an organ holds its parts, whose masks are there too
            ids = [id for part, id in self._label_set.items() if part == name or part.startswith(f"{name}_")]
            if present.intersection(ids):
                self.image(folder / "segmentations" / f"{name}.nii.gz", np.isin(labels, ids).astype(np.uint8))

    def lesions(self, folder: Path, truth: Truth) -> None:
        """A mask of each channel, empty where there is no lesion."""
        organs = load_vocabulary().organs
        for channel in self._options.channels:
            numbers = [n for n, tumour in enumerate(truth.tumours, start=1) if organs[tumour.organ].channel == channel]
            self.image(folder / f"{channel}.nii.gz", np.isin(truth.instances, numbers).astype(np.uint8))


def _write_tables(out: Path) -> None:
    """The reports and the table of tumours of all cases that are there."""
    said = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("truth/*/truth.json"))]
    reports = [Report.model_validate(one["report"]) for one in said]

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "report"))
            rows.writerows((report.id, one["text"]) for report, one in zip(reports, said, strict=True))

    write_atomically(out / "reports.csv", write)
    write_table(reports, out / "truth.csv")
