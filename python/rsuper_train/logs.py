# SPDX-License-Identifier: Apache-2.0
"""What a training says about itself: losses.csv, TensorBoard, a line of progress, and where its time goes."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rsuper_train.config import Config
from rsuper_train.files import write_atomically

PARTS = ("segmentation", "volume", "ball_bce", "ball_dice", "attenuation")
TIMES = ("data", "loss", "step")
COLUMNS = (
    *("step", "stage", "learning_rate", "total"),
    *PARTS,
    "validation",
    *(f"{name}_seconds" for name in TIMES),
)
QUIET_SECONDS = 30.0
"""Between lines where the output is no terminal."""


class Stopwatch:
    """Notes when a part of every step begins and ends: `with stopwatch: ...`.

    A GPU works behind the program's back, so there the part is marked by events, which are read when all is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, *_: object) -> None:
        self.marks.append((self._start, self._now()))

    def seconds(self) -> float:
        """Of all parts so far; waits for the device."""
        if self._device.type != "cuda":
            return sum(end - start for start, end in self.marks)
        torch.cuda.synchronize(self._device)
        return sum(start.elapsed_time(end) for start, end in self.marks) / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Times:
    """A stopwatch for each of `TIMES`."""

    def __init__(self, device: torch.device) -> None:
        self._watches = {name: Stopwatch(device) for name in TIMES}

    def __getitem__(self, name: str) -> Stopwatch:
        return self._watches[name]

    def means(self) -> dict[str, float]:
        """Seconds a step since the last call, by column."""
        steps = max(len(self._watches["step"].marks), 1)
        means = {f"{name}_seconds": watch.seconds() / steps for name, watch in self._watches.items()}
        for watch in self._watches.values():
            watch.marks.clear()
        return means


class Log:
    """Writes on rank 0; elsewhere it is not made.

    Args:
        step: of the checkpoint that the run goes on from; what was written after it is taken back.
    """

    def __init__(self, config: Config, console: Console, step: int) -> None:
        self._console = console
        self._path = config.run / "losses.csv"
        self._keep_until(step)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._board = None
        if config.logging.tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(config.run / "tensorboard"), purge_step=step + 1)
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, TextColumn("{task.fields[text]}"), console=console, disable=not console.is_terminal,
            refresh_per_second=2,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=config.steps, completed=step, text="")
        self._progress.start()
        self._total, self._said, self._text = config.steps, -QUIET_SECONDS, ""

    def step(self, step: int, stage: str) -> None:
        self._progress.update(self._task, completed=step, description=stage)

    def row(self, row: Mapping[str, Any]) -> None:
        """One line of losses.csv; names are those of COLUMNS, any may be missing."""
        self._writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in row.items()})
        self._file.flush()
        if self._board:
            for name, value in row.items():
                if isinstance(value, float):
                    group = "seconds" if name.endswith("_seconds") else "loss" if name in ("total", *PARTS) else "run"
                    self._board.add_scalar(f"{group}/{name}", value, row["step"])
        if "total" in row:
            self._text = _sentence(row)
        self._progress.update(self._task, text=self._text)
        now, last = time.monotonic(), row["step"] == self._total
        if not self._console.is_terminal and (last or now - self._said >= QUIET_SECONDS):
            self._said = now
            self.say(f"{row['stage']} {row['step']}/{self._total}  {self._text}")

    def say(self, text: str) -> None:
        """A line above the progress."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
        self._file.close()
        if self._board:
            self._board.close()

    def _keep_until(self, step: int) -> None:
        """Leave the rows of losses.csv that a checkpoint knows of."""
        kept: list[dict[str, str]] = []
        if step and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                # a row that was cut off while it was written is later than any checkpoint
                kept = [
                    row for row in csv.DictReader(file) if (row["step"] or "").isdecimal() and int(row["step"]) <= step
                ]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_atomically(self._path, lambda part: part.write_text(text.getvalue(), encoding="utf-8", newline=""))


def _sentence(row: Mapping[str, Any]) -> str:
    """Losses and shares of time, for people."""
    parts = "  ".join(f"{name} {row[name]:.3g}" for name in PARTS if row.get(name))
    step = max(row["step_seconds"], 1e-9)
    shares = "  ".join(f"{name} {row[f'{name}_seconds'] / step:.1%}" for name in ("data", "loss"))
    return f"loss {row['total']:.4g} ({parts})  {row['step_seconds']:.3g} s/step, of that {shares}"
