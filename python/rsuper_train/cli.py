# SPDX-License-Identifier: Apache-2.0
"""The command line: `rsuper demo`, `rsuper evaluate`, `rsuper prepare`, `rsuper reports`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rsuper_train.reports.cli import app as reports

app = typer.Typer(help="Train tumour segmentation from radiology reports.", no_args_is_help=True, add_completion=False)
app.add_typer(reports, name="reports")


@app.callback()
def _root() -> None:
    """Train tumour segmentation from radiology reports."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and figures.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the cohort and of the training.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Training steps; the default takes about two minutes.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    train_cases: Annotated[int, typer.Option(help="Training cases.")] = 48,
    test_cases: Annotated[int, typer.Option(help="Test cases.")] = 16,
) -> None:
    """Learn to segment tumours in a real CT from report sentences alone, and compare with hidden masks."""
    from rsuper_train.demo import DemoOptions, run_demo  # slow imports, not needed for --help
    from rsuper_train.engine import Settings

    settings = Settings() if steps is None else replace(Settings(), steps=steps)
    options = DemoOptions(
        out=out, seed=seed, threads=threads, train_cases=train_cases, test_cases=test_cases, settings=settings
    )
    run_demo(options, Console())


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder that `rsuper predict` wrote.")],
    truth: Annotated[
        Path | None, typer.Argument(help="Folder of cases with lesion masks; none: reports alone.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for evaluation.html, .json, cases.csv, lesions.csv.")] = Path(
        "evaluation"
    ),
    reports: Annotated[Path | None, typer.Option(help="Table of tumours: the truth where there is no mask.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of cases with the CTs, for pictures; else TRUTH.")] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Predictions on which the operating point is chosen; none: it is not tuned.")
    ] = None,
    validation_truth: Annotated[Path | None, typer.Option(help="Their lesion masks; by default in TRUTH.")] = None,
    channels: Annotated[list[str] | None, typer.Option(help="A channel to judge; may be repeated; else all.")] = None,
    recut: Annotated[bool, typer.Option("--recut", help="Cut masks anew at the operating point.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Judge predictions against lesion masks, and against reports where there are no masks.

    The operating point is chosen on the validation cases: by their masks, or by their reports if there are no masks.
    """
    from rsuper_train.evaluation import evaluate as judge  # slow imports, not needed for --help
    from rsuper_train.evaluation_page import summary_table

    console = Console()
    result = judge(
        predictions, truth, out, reports=reports, data=data, validation=validation, validation_truth=validation_truth,
        channels=channels or (), recut=recut, workers=workers, seed=seed, console=console,
    )  # fmt: skip
    console.print(summary_table(result))
    console.print(f"Written: {escape(str(out / 'evaluation.html'))}", soft_wrap=True, highlight=False)


@app.command()
def prepare(
    data: Annotated[Path, typer.Argument(help="Folder of cases: <case>/ct.nii.gz with organ and lesion masks.")],
    out: Annotated[Path, typer.Argument(help="Folder for the prepared data.")],
    spacing: Annotated[str, typer.Option(help="mm: 1, or 3,1,1 along D, H and W, or own.")] = "1",
    clip: Annotated[tuple[int, int], typer.Option(help="HU outside of which CTs are cut off.")] = (-1000, 1000),
    label_set: Annotated[
        str, typer.Option(help="Of the organs: totalsegmentator, abdomenatlas, or a file of your own.")
    ] = "totalsegmentator",
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes 1 to 3 GB.")] = min(8, os.cpu_count() or 1),
) -> None:
    """Reorient, resample, clip and store a folder of cases; run it again to go on where it stopped.

    A case that cannot be prepared is named, and the others go on.
    """
    from rsuper_train.prepare import Options, parse_spacing, prepare  # slow imports, not needed for --help
    from rsuper_train.reports.masks import load_label_set

    prepare(data, out, Options(load_label_set(label_set), parse_spacing(spacing), clip), workers, Console())


def main() -> None:
    """Entry point: mistakes of the user end in one sentence, not in a traceback."""
    # OpenMP's threads spin while they wait, which makes a training step several times slower when the cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ModuleNotFoundError as error:
        _stop(f"{error}; this command needs the extra 'train': pip install 'rsuper-kernels[train]'")
    except (OSError, ValueError) as error:
        _stop(str(error))


def _stop(message: str) -> None:
    """Say what is wrong and leave."""
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
