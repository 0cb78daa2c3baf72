# SPDX-License-Identifier: Apache-2.0
"""What reports add: masks alone, masks with reports, reports alone, on phantoms; writes results/experiment.json.

`python -m benchmarks.experiment` runs the commands of `rsuper` that a user would, from a cohort on disk to the
evaluation, for each seed, two trainings at a time with one thread each. Run again after an interruption, it goes on.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import rsuper
from benchmarks.figures import RESULTS, keep, read

RESULT = RESULTS / "experiment.json"
CONFIG = Path(__file__).with_suffix(".yaml")
SEEDS = (0, 1, 2)
MASKS, REPORTS, TEST = 10, 60, 30
ARMS = {
    f"{MASKS} masks": 0.0,
    f"{MASKS} masks + {REPORTS} reports": round(REPORTS / (MASKS + REPORTS), 2),
    f"{REPORTS} reports": 1.0,
}
"""Share of the crops that come from report cases: with both, every case is seen as often as any other."""
FIRST_TEST_CASE = 1000
"""Test cases are of the same kind and seed, with other numbers."""


def run(work: Path, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Make the cohorts, train the arms and judge them; returns what `results/experiment.json` holds."""
    started = time.monotonic()
    for seed in seeds:
        _prepare(work / f"seed-{seed}", seed)
    jobs = [(work / f"seed-{seed}", seed, arm) for seed in seeds for arm in ARMS]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _train(*job), jobs))
    result = summarise({arm: [_rows(work / f"seed-{seed}" / _name(arm)) for seed in seeds] for arm in ARMS})
    return {"seeds": list(seeds), "seconds": round(time.monotonic() - started), "arms": result}


def _prepare(folder: Path, seed: int) -> None:
    """A cohort on disk, its reports as a table, its volumes prepared."""
    from rsuper_train.cohort import CohortOptions, LesionOptions, PhantomOptions, write_cohort

    lesions = LesionOptions(diameters=(14.0, 50.0), attenuation=(0.6, 0.0, 0.4), contrast=(40.0, 80.0))
    phantom = PhantomOptions(spacing=(4.0, 4.0, 4.0), texture=4.0, lesions=lesions)
    options = {"kind": "phantom", "seed": seed, "label_map": True, "phantom": phantom}
    write_cohort(CohortOptions(cases=MASKS + REPORTS, masks=MASKS, **options), folder / "train")
    write_cohort(CohortOptions(cases=TEST, masks=0, start=FIRST_TEST_CASE, **options), folder / "test")
    _rsuper("reports", "extract", folder / "train" / "reports.csv", folder / "tumours.csv", "--workers", 1)
    _rsuper(
        *("prepare", folder / "train" / "cases", folder / "prepared"),
        *("--own-spacing", "--label-set", "abdomenatlas", "--workers", 1),
    )


def _train(folder: Path, seed: int, arm: str) -> None:
    """One arm, from the prepared volumes to its evaluation."""
    out = folder / _name(arm)
    settings = {
        "run": out / "run",
        "seed": seed,
        "data.prepared": folder / "prepared",
        "data.reports": folder / "tumours.csv",
        "stages.0.report_ratio": ARMS[arm],
    }
    _rsuper("train", CONFIG, *(text for key, value in settings.items() for text in ("--set", f"{key}={value}")))
    _rsuper("predict", out / "run", folder / "test" / "cases", out / "predictions")
    _rsuper("evaluate", out / "predictions", folder / "test" / "truth", "--out", out / "evaluation")


def _rsuper(*arguments: object) -> None:
    rsuper(*arguments, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")


def _name(arm: str) -> str:
    return arm.replace(" ", "-").replace("+", "and")


def _rows(arm: Path) -> list[dict[str, str]]:
    """A row a test case and organ."""
    with (arm / "evaluation" / "cases.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summarise(arms: Mapping[str, Sequence[Sequence[Mapping[str, str]]]]) -> dict[str, Any]:
    """DSC and lesion F1 of each arm, for each seed and over the test cases of all seeds, with 95 % intervals."""
    from rsuper_train.metrics import mean, ratio

    result: dict[str, Any] = {}
    for arm, seeds in arms.items():
        rows = [row for seed in seeds for row in seed]
        result[arm] = {
            "dsc": asdict(mean(_dsc(rows), 0)),
            "f1": asdict(ratio(*_f1(rows), 0)),
            "dsc_by_seed": [round(float(np.mean(_dsc(seed))), 4) for seed in seeds],
            "f1_by_seed": [round(float(np.divide(*map(np.sum, _f1(seed)))), 4) for seed in seeds],
        }
    return result


def _dsc(rows: Sequence[Mapping[str, str]]) -> list[float]:
    return [float(row["dsc"]) for row in rows if row["dsc"]]


def _f1(rows: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
    """Twice the lesions found, and lesions + detections, of each row."""
    found, lesions, wrong = ([int(row[name]) for row in rows] for name in ("found", "true_count", "false_positives"))
    return [2 * hit for hit in found], [n + hit + fp for n, hit, fp in zip(lesions, found, wrong, strict=True)]


def table(result: Mapping[str, Any]) -> str:
    """The result for the docs."""
    seeds = len(result["seeds"])
    minutes = result["seconds"] / 60
    what = (
        "Phantoms: liver, kidneys, spleen and pancreas in 4 mm voxels, lesions of 14 to 50 mm, hypo- or "
        f"hyperattenuating. {TEST} test cases for each of {seeds} seeds; means with 95 % intervals over cases. "
        f"All of it took {minutes:.0f} min on 2 cores."
    )
    lines = [what, ""]
    lines += ["| trained on | DSC | lesion F1 | DSC by seed | F1 by seed |", "|---|---|---|---|---|"]
    for arm, row in result["arms"].items():
        cells = [f"{row[k]['value']:.2f} ({row[k]['low']:.2f} to {row[k]['high']:.2f})" for k in ("dsc", "f1")]
        cells += [", ".join(f"{value:.2f}" for value in row[f"{k}_by_seed"]) for k in ("dsc", "f1")]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    keep(RESULT, run(Path("runs/experiment")))
    sys.stdout.write(f"{table(read(RESULT))}\n")
