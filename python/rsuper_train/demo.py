# SPDX-License-Identifier: Apache-2.0
"""The demo: a network learns to segment tumours in a real CT from report sentences, by the commands a user types."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from statistics import median
from typing import TextIO

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape

from rsuper_kernels import pseudo_masks
from rsuper_train.checkpoint import checkpoint_provenance, versions
from rsuper_train.cohort.real_ct import data_folder
from rsuper_train.config import load_config
from rsuper_train.figures import Panel, draw_cases, draw_losses
from rsuper_train.files import write_atomically
from rsuper_train.layout import case_files, find_cases
from rsuper_train.metrics import OperatingPoint, segment
from rsuper_train.nifti import Image
from rsuper_train.predict import Predictor
from rsuper_train.read import Options, Volume, read_case
from rsuper_train.reports.findings import to_findings
from rsuper_train.reports.rules import RulesExtractor

CONFIG, LABELS, VALIDATION, LOG = "demo.yaml", "labels.yaml", "validation.txt", "log.txt"
FOLDERS = ("data", "prepared", "run", "predictions", "evaluation")
RESULTS = ("demo.png", "losses.png", "losses.csv", "metrics.json", "reports.csv", "tumours.csv")
TEST_FROM = 10_000  # number of the first test case, behind those of any training cohort


def run_demo(
    app: typer.Typer,
    out: Path,
    seed: int,
    steps: int | None,
    threads: int,
    train_cases: int,
    test_cases: int,
    console: Console,
) -> None:
    """Make a cohort, learn from its reports, hold predictions against hidden masks.

    Args:
        app: the command line.
        out: folder for everything; what an earlier demo left there is removed.
        steps: of the training; None: as many as the configuration says.
        train_cases: a quarter as many are there for validation.

    Raises:
        ValueError: `out` holds what is not of a demo, a command failed, or training was stopped.
    """
    started = time.perf_counter()
    os.environ["RSUPER_DATA"] = str(data_folder().resolve())
    _begin(out)
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        # inside the folder, commands and configuration name its files briefly
        stack.callback(os.chdir, Path.cwd())
        os.chdir(out)
        rsuper = _Commands(app, console, stack.enter_context(open(LOG, "w", encoding="utf-8")))
        console.print(f"[dim]$[/] cd {escape(shlex.quote(str(out)))}", highlight=False, soft_wrap=True)
        _make_data(rsuper, seed, train_cases, test_cases)
        settings = [f"seed={seed}", f"hardware.threads={threads}"]
        _train(rsuper, settings if steps is None else [*settings, f"stages.0.steps={steps}"])
        _judge(rsuper)
        losses = _read_csv("losses.csv")
        step, loss = (1e3 * median(float(row[name]) for row in losses) for name in ("step_seconds", "loss_seconds"))
        console.print(f"A step takes {step:.0f} ms, the losses {loss:.1f} ms of it ({loss / step:.0%}).")
        figures = json.loads(Path("evaluation/evaluation.json").read_text(encoding="utf-8"))["channels"]["lesion"]
        draw_losses(losses, Path("losses.png"))
        if panels := list(_panels(OperatingPoint(**figures["operating_point"]))):
            draw_cases(panels, Path("demo.png"))
        milliseconds = {"step": step, "losses": loss}
        metrics = figures | {"milliseconds": milliseconds, "seconds": rsuper.seconds, "versions": versions()}
        text = json.dumps(metrics, indent=1, allow_nan=False) + "\n"
        write_atomically(Path("metrics.json"), lambda part: part.write_text(text, encoding="utf-8"))
    console.print(f"{time.perf_counter() - started:.0f} s. Written to {escape(str(out))}: {', '.join(RESULTS)}")


@dataclass
class _Commands:
    """Runs `rsuper` as if typed; what is not to be shown goes to the log, and progress to the terminal in any case."""

    app: typer.Typer
    console: Console
    log: TextIO
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, *words: object, shown: bool = False) -> None:
        typed, started = [str(word) for word in words], time.perf_counter()
        for console in (self.console, Console(file=self.log)):
            console.print(f"[dim]$[/] rsuper {escape(shlex.join(typed))}", highlight=False, soft_wrap=True)
        with nullcontext() if shown else redirect_stdout(self.log):
            failed = self.app(typed, standalone_mode=False)
        if failed:
            raise ValueError(f"`rsuper {typed[0]}` failed; {LOG} in the demo's folder says why")
        self.seconds[typed[0]] = round(self.seconds.get(typed[0], 0.0) + time.perf_counter() - started, 1)


def _begin(out: Path) -> None:
    """A folder with the configuration and nothing of an earlier demo; what else is in it stays."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: {out} is a file; give a folder to write to")
    left = [out / name for name in FOLDERS if (out / name).exists()]
    if left and not (out / CONFIG).is_file():
        raise ValueError(f"out: {left[0]} is not from a demo; give another folder to write to")
    for folder in left:
        shutil.rmtree(folder)
    for name in RESULTS:
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for source, name in (("demo.yaml", CONFIG), ("demo_labels.yaml", LABELS)):
        (out / name).write_bytes(resources.files(__package__).joinpath(source).read_bytes())


def _make_data(rsuper: _Commands, seed: int, train_cases: int, test_cases: int) -> None:
    """Cases with reports and no masks, the table of their tumours, and test cases whose masks stay apart."""
    cohort = ("--kind", "ct", "--masks", 0, "--label-map", "--seed", seed)
    rsuper("cohort", "data/training", "--cases", train_cases + max(train_cases // 4, 1), *cohort)
    rsuper("cohort", "data/test", "--cases", test_cases, "--start", TEST_FROM, *cohort)
    shutil.copy("data/training/reports.csv", "reports.csv")
    rsuper("reports", "extract", "reports.csv", "tumours.csv")
    reports = _read_reports("reports.csv")
    Path(VALIDATION).write_text("\n".join([*reports][train_cases:]) + "\n", encoding="utf-8")
    ill = [row["report_id"] for row in _read_csv("tumours.csv") if row["tumour"]]
    example = " ".join(reports[next(iter(ill), next(iter(reports)))].split())
    said = f"{train_cases} cases to learn from: CT, organs, report; no lesion mask. For example:"
    rsuper.console.print(f"{said}\n[italic]“{escape(example)}”[/]", highlight=False)


def _train(rsuper: _Commands, settings: list[str]) -> None:
    rsuper("prepare", "data/training/cases", "prepared", "--own-spacing", "--label-set", LABELS)
    rsuper("train", CONFIG, *(word for setting in settings for word in ("--set", setting)))
    if checkpoint_provenance(Path("run"))["step"] < load_config(Path(CONFIG), settings).steps:
        raise ValueError("training was stopped, and with it the demo; the next demo begins anew")
    shutil.copy("run/losses.csv", "losses.csv")


def _judge(rsuper: _Commands) -> None:
    """Predict and hold the masks against the hidden ones; threshold and smallest tumour are chosen on reports."""
    rsuper("predict", "run", "data/training/cases", "predictions/validation", "--cases", VALIDATION)
    rsuper("predict", "run", "data/test/cases", "predictions/test")
    hidden = ("data/test/truth", "--data", "data/test/cases", "--out", "evaluation")
    chosen = ("--validation", "predictions/validation", "--reports", "tumours.csv", "--recut")
    rsuper("evaluate", "predictions/test", *hidden, *chosen, shown=True)


def _panels(point: OperatingPoint) -> Iterator[Panel]:
    """For liver, kidney and spleen the first test case with a lesion there, at the slice where it is largest."""
    predictor = Predictor([Path("run")], "cpu")
    options = Options(predictor.label_set, predictor.manifest.spacing, predictor.manifest.clip)
    reports, truths = _read_reports("data/test/reports.csv"), find_cases(Path("data/test/truth"))
    for channel in ("liver_lesion", "kidney_lesion", "spleen_lesion"):
        masks = {id: Image(files.lesions[channel]).read() > 0 for id, files in truths.items()}
        if id := next((id for id, mask in masks.items() if mask.any()), None):
            image = Image(Path("predictions/test", id, "probabilities/lesion.nii.gz"))
            volume = read_case(case_files(Path("data/test/cases", id)), options)
            level = int(masks[id].sum((1, 2)).argmax())
            yield Panel(
                text=f"{id}   “{reports[id]}”",
                ct=volume.ct[level],
                labels=volume.labels[level],
                truth=np.any([Image(path).read()[level] > 0 for path in truths.pop(id).lesions.values()], axis=0),
                ball=_ball_mask(predictor, volume, reports[id])[level],
                prediction=segment(image.read(np.float32), image.grid.spacing, point)[level],
                spacing=image.grid.spacing[1:],
            )


def _ball_mask(predictor: Predictor, volume: Volume, text: str) -> np.ndarray:
    """Where the Ball Loss places the tumours of a report, bool (D, H, W)."""
    probability = torch.from_numpy(predictor.probabilities(volume.record, volume.ct, volume.labels))
    report = RulesExtractor().extract(volume.record.id, text)
    findings = to_findings([report], predictor.label_set, predictor.channels).findings
    regions, recipe = torch.from_numpy(volume.labels)[None], predictor.config.loss.build_recipe()
    logits = torch.logit(probability, 1e-6)[None]
    return pseudo_masks(logits, findings, regions, volume.record.spacing, recipe=recipe).body.any(0).numpy()


def _read_reports(path: str) -> dict[str, str]:
    return {row["id"]: row["report"] for row in _read_csv(path)}


def _read_csv(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
