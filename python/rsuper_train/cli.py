# SPDX-License-Identifier: Apache-2.0
"""The command line: `rsuper demo`, `rsuper reports`."""

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
    from rsuper_train.demo_engine import Settings

    settings = Settings() if steps is None else replace(Settings(), steps=steps)
    options = DemoOptions(
        out=out, seed=seed, threads=threads, train_cases=train_cases, test_cases=test_cases, settings=settings
    )
    run_demo(options, Console())


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration (YAML); `rsuper config` writes one with all defaults.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as stages.0.steps=100; may be repeated.")
    ] = None,
) -> None:
    """Train a network; the same command goes on where it was interrupted."""
    from rsuper_train.config import load_config
    from rsuper_train.engine import train as run

    loaded = load_config(config, overrides or ())
    run(loaded, Console(stderr=True))


@app.command()
def config(
    path: Annotated[Path | None, typer.Argument(help="Configuration to complete; none: all defaults.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as stages.0.steps=100; may be repeated.")
    ] = None,
) -> None:
    """Print a complete configuration, with what each key means."""
    from rsuper_train.config import load_config, to_yaml

    print(to_yaml(load_config(path, overrides or ())))


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
