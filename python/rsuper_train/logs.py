# SPDX-License-Identifier: Apache-2.0
"""What a training says about itself: losses.csv, TensorBoard, a line of progress, and where its time goes."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rsuper_train.config import Config
from rsuper_train.files import write_text
from rsuper_train.losses import LOSSES, PARTS

TIMES = ("data", "loss", "step")
COLUMNS = ("step", "stage", "learning_rate", *LOSSES, "validation", *(f"{name}_seconds" for name in TIMES))
QUIET_SECONDS = 30.0
"""Between lines where the output is no terminal."""


class Times:
    """Stopwatches for the parts of a step: `with times["data"]: ...`.

    A GPU works behind the program's back, so there the parts are marked by events, which are read when all is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in TIMES}

    @contextmanager
    def __getitem__(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._marks[name].append((start, self._now()))

    def means(self) -> dict[str, float]:
        """Seconds a step since the last call, by column; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        steps = max(len(self._marks["step"]), 1)
        sums = {name: sum(self._between(*marks) for marks in self._marks[name]) for name in TIMES}
        self._marks = {name: [] for name in TIMES}
        return {f"{name}_seconds": seconds / steps for name, seconds in sums.items()}

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        return end - start if self._device.type != "cuda" else start.elapsed_time(end) / 1000


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
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
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
                    group = "seconds" if name.endswith("_seconds") else "loss" if name in LOSSES else "run"
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
        say(self._progress.console, text)

    def close(self) -> None:
        self._progress.stop()
        self._file.close()
        if self._board:
            self._board.close()

    def _keep_until(self, step: int) -> None:
        """Leave the rows of losses.csv that a checkpoint knows of."""
        kept: list[str] = []
        if step and self._path.is_file():
            rows = self._path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
            # a row that was cut off while it was written is later than any checkpoint
            whole = [row for row in rows if row.endswith("\n") and row.partition(",")[0].isdecimal()]
            kept = [row for row in whole if int(row.partition(",")[0]) <= step]
        write_text(self._path, "".join([",".join(COLUMNS), "\n", *kept]))


def say(console: Console, text: str) -> None:
    """A line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _sentence(row: Mapping[str, Any]) -> str:
    """Losses and shares of time, for people."""
    parts = "  ".join(f"{name} {row[name]:.3g}" for name in PARTS if row.get(name))
    step = max(row["step_seconds"], 1e-9)
    shares = "  ".join(f"{name} {row[f'{name}_seconds'] / step:.1%}" for name in ("data", "loss"))
    return f"loss {row['total']:.4g} ({parts})  {row['step_seconds']:.3g} s/step, of that {shares}"
