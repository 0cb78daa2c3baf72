# SPDX-License-Identifier: Apache-2.0
"""The demo: a network learns to segment tumours in a real CT from nothing but report sentences."""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import monai
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

import rsuper_kernels
from rsuper_train.anatomy import load_anatomy
from rsuper_train.calibrate import OperatingPoint, choose_operating_point
from rsuper_train.data import Sample, prepare, to_case_grid
from rsuper_train.demo_engine import Settings, StepTime, ball_mask, build_network, predict, train
from rsuper_train.evaluate import CaseScore, Summary, score_case, summarise
from rsuper_train.figures import Panel, draw_cases, draw_losses
from rsuper_train.files import write_atomically
from rsuper_train.phantom import Case, Truth, make_cohort
from rsuper_train.reports.table import write_table


@dataclass(frozen=True)
class DemoOptions:
    """What `rsuper demo` can be told."""

    out: Path = Path("runs/demo")
    seed: int = 0
    threads: int = 2
    train_cases: int = 48
    validation_cases: int = 12
    test_cases: int = 16
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for name, least in (
            ("threads", 1),
            ("train_cases", 1),
            ("validation_cases", 0),
            ("test_cases", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name.replace('_', '-')}: expected at least {least}, got {getattr(self, name)}")
        if self.settings.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.settings.steps}")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out: {self.out} is a file; give a folder to write to")


class Clock:
    """Wall time of the parts of a run, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def run_demo(options: DemoOptions, console: Console) -> dict[str, object]:
    """Make the cohort, train on its reports, evaluate on hidden masks, write to `options.out`; returns the metrics."""
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    clock, settings = Clock(), options.settings
    with clock.part("cohort"), console.status("making the cohort: real anatomy, implanted lesions, written reports"):
        training, validation, (test, truths) = _cohorts(options)
        samples, validation_samples, test_samples = (
            [prepare(c) for c in cases] for cases in (training, validation, test)
        )
    _write_reports(options.out, [*training, *validation], [*samples, *validation_samples])
    console.print(f"{len(samples)} training cases: CT, organ labels, report. No lesion mask. For example:")
    console.print(f"  [italic]“{_example(training, samples)}”[/italic]")

    network = build_network(settings, options.seed)
    with clock.part("evaluation before"):
        before = _evaluate(network, test_samples, test, truths, OperatingPoint())[0]
    with clock.part("training"):
        network, history, times = _train(network, samples, settings, options.seed, console)
    step = _step_time(times)
    console.print(
        f"A step takes {step['step_ms']:.0f} ms, the losses {step['losses_ms']:.1f} ms of it ({step['share']:.1%})."
    )
    with (
        clock.part("evaluation"),
        console.status("choosing the threshold on reports, then comparing with the hidden masks"),
    ):
        point = choose_operating_point([predict(network, s) for s in validation_samples], validation_samples)
        after, masks = _evaluate(network, test_samples, test, truths, point)
    with clock.part("figures"), console.status("drawing"):
        draw_losses(history, options.out / "losses.png")
        if panels := _panels(network, settings, test_samples, test, truths, masks):
            draw_cases(panels, options.out / "demo.png")
    metrics = _metrics(options, clock, step, point, before, after)
    _write(options.out, history, metrics)
    console.print(_table(summarise(before), summarise(after)))
    written = "demo.png, losses.png, losses.csv, metrics.json; reports.csv, and tumours.csv extracted from it"
    console.print(f"{sum(clock.seconds.values()):.0f} s. Written to {options.out}: {written}")
    return metrics


def _cohorts(options: DemoOptions) -> tuple[list[Case], list[Case], tuple[list[Case], list[Truth]]]:
    """Training and validation cases without their truth, which is dropped here; test cases with it."""
    anatomy = load_anatomy()
    training, _ = make_cohort(options.train_cases, options.seed, anatomy, "train")
    validation, _ = make_cohort(options.validation_cases, options.seed, anatomy, "validation")
    return training, validation, make_cohort(options.test_cases, options.seed, anatomy, "test")


def _example(cases: Sequence[Case], samples: Sequence[Sample]) -> str:
    """The first report that speaks of a lesion, in one line."""
    ill = (case for case, sample in zip(cases, samples, strict=True) if any(g.tumours for g in sample.findings.groups))
    return " ".join(next(ill, cases[0]).report.split())


def _train(
    network: nn.Module, samples: Sequence[Sample], settings: Settings, seed: int, console: Console
) -> tuple[nn.Module, list[dict[str, float]], list[StepTime]]:
    """Train behind a progress bar; returns the network, and losses and time of every step."""
    history: list[dict[str, float]] = []
    times: list[StepTime] = []
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("train", total=settings.steps, losses="")

        def log(step: int, losses: dict[str, float], time: StepTime) -> None:
            history.append(losses)
            times.append(time)
            progress.update(task, completed=step + 1, losses=_losses_text(history[-20:]))

        return train(network, samples, settings, seed, log), history, times


def _step_time(times: Sequence[StepTime]) -> dict[str, float]:
    """Medians over the steps: of a step and of its losses, in ms, and the losses' share."""
    step, losses = (1e3 * float(np.median([getattr(time, part) for time in times])) for part in ("step", "losses"))
    return {"step_ms": round(step, 1), "losses_ms": round(losses, 2), "share": round(losses / step, 4)}


def _losses_text(recent: Sequence[dict[str, float]]) -> str:
    """The mean of recent losses, short enough for a terminal of 80 columns."""
    mean = {name: float(np.mean([step[name] for step in recent])) for name in recent[0]}
    mean["ball"] = mean.pop("ball_bce", 0.0) + mean.pop("ball_dice", 0.0)
    return " ".join(f"{name} {mean[name]:.2f}" for name in ("volume", "ball", "attenuation") if name in mean)


def _evaluate(
    network: nn.Module, samples: Sequence[Sample], cases: Sequence[Case], truths: Sequence[Truth], point: OperatingPoint
) -> tuple[list[CaseScore], list[np.ndarray]]:
    """Scores and predicted masks on the cases' grids."""
    masks = [
        to_case_grid(point.apply(predict(network, sample), sample), sample, case.ct.shape)
        for sample, case in zip(samples, cases, strict=True)
    ]
    scores = [score_case(t.case_id, m, t.instances, c.spacing) for c, t, m in zip(cases, truths, masks, strict=True)]
    return scores, masks


def _panels(
    network: nn.Module,
    settings: Settings,
    samples: Sequence[Sample],
    cases: Sequence[Case],
    truths: Sequence[Truth],
    masks: Sequence[np.ndarray],
) -> list[Panel]:
    """One row for liver, kidney and spleen: the first test case with a lesion there, at its largest slice."""
    panels: list[Panel] = []
    for organ in ("liver", "kidney", "spleen"):
        found = [(i, n) for i, t in enumerate(truths) for n, r in enumerate(t.tumours, 1) if r.organ == organ]
        fresh = [place for place in found if cases[place[0]].case_id not in {panel.title for panel in panels}]
        if not found:
            continue
        i, number = (fresh or found)[0]
        case, sample = cases[i], samples[i]
        panels.append(
            Panel(
                title=case.case_id,
                report=case.report,
                ct=case.ct,
                labels=to_case_grid(sample.labels.numpy(), sample, case.ct.shape),
                truth=truths[i].mask,
                ball=to_case_grid(ball_mask(network, sample, settings), sample, case.ct.shape),
                prediction=masks[i],
                spacing=case.spacing,
                slice=int((truths[i].instances == number).sum((1, 2)).argmax()),
            )
        )
    return panels


def _metrics(
    options: DemoOptions,
    clock: Clock,
    step: dict[str, float],
    point: OperatingPoint,
    before: list[CaseScore],
    after: list[CaseScore],
) -> dict[str, object]:
    """Everything that metrics.json holds."""
    return {
        "before training": asdict(summarise(before)),
        "report-supervised": asdict(summarise(after)),
        "cases": [asdict(score) for score in after],
        "operating_point": asdict(point),
        "options": {**asdict(options), "out": str(options.out)},
        "seconds": clock.seconds,
        "training step": step,
        "versions": {
            "rsuper_kernels": rsuper_kernels.__version__,
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _write_reports(out: Path, cases: Sequence[Case], samples: Sequence[Sample]) -> None:
    """reports.csv, the texts that training sees, and tumours.csv, what was read from them."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "report"), *((case.case_id, case.report) for case in cases)])

    write_atomically(out / "reports.csv", write)
    write_table([sample.report for sample in samples], out / "tumours.csv")


def _write(out: Path, history: Sequence[dict[str, float]], metrics: dict[str, object]) -> None:
    """losses.csv and metrics.json, each whole or not at all. NaN becomes null."""
    rows = [",".join(("step", *history[0]))]
    rows += [",".join((str(i), *(f"{v:.6g}" for v in step.values()))) for i, step in enumerate(history, 1)]
    write_atomically(out / "losses.csv", lambda part: part.write_text("\n".join(rows) + "\n", encoding="utf-8"))
    text = json.dumps(_without_nan(metrics), indent=2, allow_nan=False)
    write_atomically(out / "metrics.json", lambda part: part.write_text(text + "\n", encoding="utf-8"))


def _without_nan(value: object) -> object:
    """The same value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _table(before: Summary, after: Summary) -> Table:
    """The result, for the terminal."""
    table = Table(title=f"Test cases with hidden lesion masks ({after.lesions} lesions)", title_justify="left")
    table.add_column("")
    for name in ("DSC", "sensitivity", "FP / case", "volume error"):
        table.add_column(name, justify="right")
    for name, s in (("before training", before), ("report-supervised", after)):
        cells = (
            f"{s.dice:.2f}",
            f"{s.sensitivity:.2f}",
            f"{s.false_positives_per_case:.2f}",
            f"{s.volume_error_percent:.0f} %",
        )
        table.add_row(name, *cells, style="bold" if s is after else None)
    return table
