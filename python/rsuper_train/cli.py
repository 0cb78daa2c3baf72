# SPDX-License-Identifier: Apache-2.0
"""The command line: `rsuper cohort`, `rsuper demo`, `rsuper reports`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

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
def cohort(
    out: Annotated[Path, typer.Argument(help="Folder; a cohort of the same options in it is completed.")],
    kind: Annotated[Literal["phantom", "ct"], typer.Option(help="Ellipsoids, or copies of one real CT.")] = "phantom",
    cases: Annotated[int, typer.Option(help="Cases.")] = 70,
    masks: Annotated[int, typer.Option(help="The first so many cases come with lesion masks.")] = 10,
    seed: Annotated[int, typer.Option(help="With it and its number, a case is always the same.")] = 0,
    start: Annotated[int, typer.Option(help="Number of the first case, for disjoint cohorts of one seed.")] = 0,
    spacing: Annotated[
        tuple[float, float, float], typer.Option(help="Voxels of the phantom, mm: slice, row, column.")
    ] = (3.0, 3.0, 3.0),
    thickest: Annotated[float, typer.Option(help="Slices of a phantom are up to this many times thicker.")] = 1.0,
    turned: Annotated[bool, typer.Option(help="Axes of the files in any order and direction.")] = False,
    label_map: Annotated[bool, typer.Option(help="Organs as one label map, not a mask for each class.")] = False,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Write a synthetic cohort: CTs, organ masks and reports, and apart from them the true lesions."""
    from rsuper_train.cohort import CohortOptions, PhantomOptions, write_cohort  # slow imports

    phantom = PhantomOptions(spacing=spacing, thickest=thickest)
    write_cohort(CohortOptions(kind, cases, masks, seed, start, label_map, turned, phantom), out, workers, Console())
    Console().print(
        f"{cases} cases in {escape(str(out / 'cases'))}, their reports in {escape(str(out / 'reports.csv'))}"
    )


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
