# SPDX-License-Identifier: Apache-2.0
"""What losses and data cost of a training step: `python -m benchmarks.training` writes results/training.json.

SegResNet on crops of 96^3, two a step, half of them of report cases, on the CPU with two threads and two processes that
load data; the seconds are those of the trainer's own log.
"""

from __future__ import annotations

import csv
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.commands import rsuper
from benchmarks.figures import RESULTS, keep, read

RESULT = RESULTS / "training.json"
STEPS, WARM_UP = 14, 4
CONFIG = """
data: {{prepared: {folder}/prepared, reports: {folder}/tumours.csv, channels: [liver_lesion, kidney_lesion],
  patch: [96, 96, 96]}}
network: {{name: SegResNet, arguments: {{init_filters: 8}}}}
stages: [{{steps: {steps}, report_ratio: 0.5}}]
hardware: {{accelerator: cpu, devices: 1, batch: 2, workers: 2, threads: 2}}
logging: {{every: 1, checkpoint: 100, tensorboard: false}}
run: {folder}/run
"""


def measure() -> dict[str, Any]:
    """Medians over the steps behind the first few, which start the processes that load data."""
    from rsuper_train.cohort import CohortOptions, PhantomOptions, write_cohort

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom = PhantomOptions(spacing=(1.5, 1.5, 1.5))
        write_cohort(CohortOptions(cases=8, masks=4, label_map=True, phantom=phantom), folder / "cohort")
        (folder / "run.yaml").write_text(CONFIG.format(folder=folder, steps=STEPS))
        rsuper("reports", "extract", folder / "cohort" / "reports.csv", folder / "tumours.csv")
        rsuper(
            *("prepare", folder / "cohort" / "cases", folder / "prepared"),
            "--own-spacing",
            "--label-set",
            "abdomenatlas",
        )
        rsuper("train", folder / "run.yaml")
        with (folder / "run" / "losses.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))[WARM_UP:]
    parts = ("step", "loss", "data")
    return {part: statistics.median(float(row[f"{part}_seconds"]) for row in rows) for part in parts}


def table(result: Mapping[str, float]) -> str:
    """The result for the docs."""
    step = result["step"]
    return (
        f"SegResNet, two crops of 96³ a step, two threads: {step:.2f} s a step, of which the losses, both ways, "
        f"take {result['loss'] / step:.1%}, and waiting for data, loaded by two processes, {result['data'] / step:.1%}."
    )


if __name__ == "__main__":
    keep(RESULT, measure())
    sys.stdout.write(f"{table(read(RESULT))}\n")
