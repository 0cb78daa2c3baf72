# SPDX-License-Identifier: Apache-2.0
"""Cost curves: `make curves` measures and writes results/cpu_curves.csv and .png (`python -m benchmarks.curves -h`)."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from benchmarks.cases import SceneLoss, Step, ball, competing_ball, competing_volume, volume
from benchmarks.figures import RESULTS
from benchmarks.inputs import TUMOURS, Scene, scene
from benchmarks.measure import THREADS, Timed, copy_of, machine, take_turns
from benchmarks.plot_curves import plot

CSV, PNG = RESULTS / "cpu_curves.csv", RESULTS / "cpu_curves.png"

LOSSES: dict[str, SceneLoss] = {
    "volume loss": volume,
    "ball loss": ball,
    "volume loss, plain torch": competing_volume,
    "ball loss, plain torch": competing_ball,
}
BALL_LOSSES = {name: loss for name, loss in LOSSES.items() if name.startswith("ball")}

Steps = dict[str, Callable[[], object]]


def on(inputs: Scene, losses: Mapping[str, SceneLoss] = LOSSES) -> Steps:
    """A step of each loss, and a copy."""
    steps: Steps = {name: Step.of(lambda x, f=loss: f(x, inputs), inputs.logits) for name, loss in losses.items()}
    return {**steps, "copy": copy_of(Step.of(torch.sum, inputs.logits))}


def trained_and_not(tumours: tuple[float, ...]) -> Steps:
    """The ball loss early and late in training."""
    untrained = scene(tumours, edge=128, trained=False)
    return {
        **on(scene(tumours, edge=128), BALL_LOSSES),
        "ball loss, untrained": Step.of(lambda x: ball(x, untrained), untrained.logits),
    }


def edges(quick: bool) -> Iterator[tuple[int, Steps]]:
    for edge in (48, 96) if quick else (48, 64, 96, 128, 160, 192):
        yield edge, on(scene((17.0, 11.0, 7.0), edge=edge))


def diameters(quick: bool) -> Iterator[tuple[int, Steps]]:
    for diameter in (5, 25, 80) if quick else (5, 9, 13, 17, 25, 41, 61, 80):
        yield diameter, trained_and_not((float(diameter),))


def counts(quick: bool) -> Iterator[tuple[int, Steps]]:
    for count in (1, 10) if quick else (1, 2, 5, 10, 20, 40):
        yield count, trained_and_not((9.0,) * count)


def threads(quick: bool) -> Iterator[tuple[int, Steps]]:
    inputs = scene(TUMOURS[3], edge=128)
    for number in (1, 2):
        torch.set_num_threads(number)
        yield number, on(inputs)
    torch.set_num_threads(THREADS)


def dtypes(quick: bool) -> Iterator[tuple[str, Steps]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield str(dtype).removeprefix("torch."), on(scene(TUMOURS[3], edge=128, dtype=dtype))


PANELS = {
    "edge of the patch (voxels)": edges,
    "diameter of one tumour (mm)": diameters,
    "number of tumours of 9 mm": counts,
    "threads": threads,
    "dtype of the logits": dtypes,
}


def measured(steps: Steps, seconds: float) -> Iterator[dict[str, Any]]:
    """Median and quartiles of steps that take turns for about so many seconds, three times at least."""
    timed = {name: Timed(step) for name, step in steps.items()}
    take_turns(timed.values(), 1)
    rounds = min(max(int(seconds / sum(step.seconds.pop() for step in timed.values())), 3), 15)
    take_turns(timed.values(), rounds)
    for name, series in timed.items():
        first, third = series.quartiles
        yield {
            "series": name,
            "ms": f"{series.milliseconds:.4g}",
            "first_quartile": f"{first:.4g}",
            "third_quartile": f"{third:.4g}",
            "rounds": rounds,
        }


def measure(quick: bool) -> list[dict[str, Any]]:
    torch.set_num_threads(THREADS)
    where = machine()
    source = {name: where[name] for name in ("cpu", "torch", "commit")}
    rows = []
    for panel, points in PANELS.items():
        for x, steps in points(quick):
            rows += [{"panel": panel, "x": x, **row, **source} for row in measured(steps, 0.5 if quick else 2.0)]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few points, to try it out")
    parser.add_argument("--plot-only", action="store_true", help="draw the CSV as it is")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if not options.plot_only:
        rows = measure(options.quick)
        with CSV.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with CSV.open(newline="") as file:
        plot(list(csv.DictReader(file)), PNG)


if __name__ == "__main__":
    main()
