# SPDX-License-Identifier: Apache-2.0
"""A synthetic cohort as a dataset on disk, in the layout of a user's own folder, and apart from it the hidden truth.

<out>/cases/<case>/ct.nii.gz, segmentations/<class>.nii.gz or labels.nii.gz, lesions/<channel>.nii.gz (some cases)
<out>/reports.csv                 id, report
<out>/truth/<case>/lesions/<channel>.nii.gz, truth.json (text and contents of the report)
<out>/truth.csv                   the table of the true tumours
<out>/cohort.json                 the options
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.progress import track

from rsuper_train import nifti
from rsuper_train.cohort import phantom, real_ct
from rsuper_train.cohort.case import Case, Truth
from rsuper_train.files import read_map, write_text
from rsuper_train.processes import each_case
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Report
from rsuper_train.reports.table import write_csv, write_table
from rsuper_train.reports.vocabulary import load_vocabulary

ROOMS = {"phantom": phantom, "ct": real_ct}


@dataclass(frozen=True)
class CohortOptions:
    """What is written.

    Args:
        kind: "phantom" (ellipsoids; AbdomenAtlas labels) or "ct" (deformed copies of the CT of examples/data;
            TotalSegmentator labels).
        cases: how many.
        masks: the first so many cases, if there are so many, come with lesion masks, empty ones included.
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
    phantom: phantom.PhantomOptions = field(default_factory=phantom.PhantomOptions)

    def __post_init__(self) -> None:
        if self.kind not in ROOMS:
            raise ValueError(f"kind: expected {' or '.join(ROOMS)}, got {self.kind!r}")
        if self.kind == "ct" and self.phantom != phantom.PhantomOptions():
            raise ValueError("phantom: spacing and other options of phantoms do not go with kind ct")
        for name, least in {"cases": 1, "masks": 0, "seed": 0, "start": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name}: expected a number from {least}, got {value}")

    def make(self, number: int) -> tuple[Case, Truth]:
        """The case of that number, whatever `cases` and `start` are."""
        rng, case_id = np.random.default_rng([self.seed, number, *self.kind.encode()]), self.case_id(number)
        if self.kind == "phantom":
            return phantom.make_phantom(self.phantom, rng, case_id)
        return real_ct.make_case(real_ct.load_anatomy(real_ct.data_folder()), rng, case_id)

    def case_id(self, number: int) -> str:
        return f"{self.kind}-{number:04d}"


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
    tasks = {options.case_id(n): (options, out, n) for n in range(options.start, options.start + options.cases)}
    missing = {case_id: task for case_id, task in tasks.items() if not (out / "cases" / case_id).is_dir()}
    written = each_case(_write_case, missing, workers)
    for _ in track(written, "cohort", len(missing), console=console, disable=console is None, transient=True):
        pass
    shutil.rmtree(out / ".unfinished", ignore_errors=True)
    _write_tables(out)


def _claim(options: CohortOptions, out: Path) -> None:
    """Write the options, or hold them against those that are there."""
    path, ours = out / "cohort.json", json.dumps(asdict(options), indent=1)
    theirs = read_map(path, "the options of a cohort") if path.is_file() else {}
    before, now = _flat(theirs), _flat(json.loads(ours))
    if differing := [name for name in now if name != "cases" and before.get(name, now[name]) != now[name]]:
        shown = ", ".join(f"{name} {before[name]} and not {now[name]}" for name in differing)
        raise ValueError(f"{out}: the cohort in it has {shown}; choose another folder, or the same options")
    write_text(path, ours)


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "phantom"} | options.get("phantom", {})


def _write_case(task: tuple[CohortOptions, Path, int]) -> None:
    """Write a case and its truth beside their places, then move them there, the case last."""
    options, out, number = task
    case, truth = options.make(number)
    unfinished, there = out / ".unfinished" / case.case_id, out / "truth" / case.case_id
    for folder in (unfinished, there):
        shutil.rmtree(folder, ignore_errors=True)
    for name, array in _volumes(options, case, truth).items():
        image = _image(array, case.spacing)
        if options.turned:
            rng = np.random.default_rng([options.seed, number, *b"turned"])
            image = image.as_reoriented(np.stack([rng.permutation(3), rng.choice([-1, 1], 3)], axis=1))
        nifti.write(unfinished / f"{name}.nii.gz", np.asanyarray(image.dataobj), image.affine)
    if number - options.start < options.masks:
        shutil.copytree(unfinished / "truth" / "lesions", unfinished / "case" / "lesions")
    said = {"text": case.report, "report": truth.report.model_dump(mode="json")}
    write_text(unfinished / "truth" / "truth.json", json.dumps(said, indent=1))
    for name, place in (("truth", there), ("case", out / "cases" / case.case_id)):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, place)


def _volumes(options: CohortOptions, case: Case, truth: Truth) -> dict[str, np.ndarray]:
    """What becomes a file, by its name: arrays (D, H, W)."""
    room, organs = ROOMS[options.kind], load_vocabulary().organs
    volumes = {"case/ct": np.clip(np.rint(case.ct), -1024, 3071).astype(np.int16)}
    if options.label_map:
        volumes["case/labels"] = case.labels
    else:
        label_set = load_label_set(room.LABEL_SET).ids
        present = set(np.unique(case.labels).tolist())
        for name in label_set:
            # the mask of an organ holds its parts, whose masks are there too
            ids = [id for part, id in label_set.items() if part == name or part.startswith(f"{name}_")]
            if present.intersection(ids):
                volumes[f"case/segmentations/{name}"] = np.isin(case.labels, ids).astype(np.uint8)
    for channel in {organs[organ.place.organ].channel for organ in room.ORGANS}:
        numbers = [n for n, tumour in enumerate(truth.tumours, start=1) if organs[tumour.organ].channel == channel]
        volumes[f"truth/lesions/{channel}"] = np.isin(truth.instances, numbers).astype(np.uint8)
    return volumes


def _image(array: np.ndarray, spacing: tuple[float, ...]) -> nib.Nifti1Image:
    """(D, H, W) as a file whose axes run to the right, to anterior and to the head, with the middle at 0 mm."""
    steps = np.array(spacing[::-1])
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(array.shape[::-1]) - 1) / 2
    return nib.Nifti1Image(array.transpose(2, 1, 0), affine)


def _write_tables(out: Path) -> None:
    """The reports and the table of tumours of all cases that are there."""
    said = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("truth/*/truth.json"))]
    write_csv(out / "reports.csv", ("id", "report"), ((one["report"]["id"], one["text"]) for one in said))
    write_table([Report.model_validate(one["report"]) for one in said], out / "truth.csv")
