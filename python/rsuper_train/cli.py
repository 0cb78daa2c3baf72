# SPDX-License-Identifier: Apache-2.0
"""The command line, in the order of the work: reports, prepare, train, predict, evaluate, audit."""

from __future__ import annotations

import os
import sys
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
def prepare(
    data: Annotated[Path, typer.Argument(help="Folder of cases: <case>/ct.nii.gz with organ and lesion masks.")],
    out: Annotated[Path, typer.Argument(help="Folder for the prepared data.")],
    spacing: Annotated[
        tuple[float, float, float], typer.Option(help="mm along D (to the head), H (to anterior) and W.")
    ] = (1.0, 1.0, 1.0),
    own_spacing: Annotated[bool, typer.Option("--own-spacing", help="Do not resample.")] = False,
    clip: Annotated[tuple[int, int], typer.Option(help="HU outside of which CTs are cut off.")] = (-1000, 1000),
    label_set: Annotated[
        str, typer.Option(help="Of the organs: totalsegmentator, abdomenatlas, or a file of your own.")
    ] = "totalsegmentator",
    workers: Annotated[int, typer.Option(min=1, help="Processes; each takes 1 to 3 GB.")] = min(8, os.cpu_count() or 1),
) -> None:
    """Reorient, resample, clip and store a folder of cases; run it again to go on where it stopped.

    A case that cannot be prepared is named, and the others go on; the exit code is then 1.
    """
    from rsuper_train.prepare import prepare  # slow imports, not needed for --help
    from rsuper_train.read import Options
    from rsuper_train.reports.masks import load_label_set

    options = Options(load_label_set(label_set), None if own_spacing else spacing, clip)
    if prepare(data, out, options, workers, Console()).failed:
        raise typer.Exit(1)


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
def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or a checkpoint.")],
    data: Annotated[Path, typer.Argument(help="Folder of cases, <case>/ct.nii.gz, as for `rsuper prepare`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the predictions.")],
    also: Annotated[list[Path] | None, typer.Option(help="Another run, averaged with the first; repeatable.")] = None,
    channels: Annotated[str | None, typer.Option(help="Outputs to write, by commas; otherwise all lesions.")] = None,
    cases: Annotated[str | None, typer.Option(help="Ids by commas, or a text file with one a line.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Share by which windows overlap.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Axes mirrored at test time, such as DHW; or none.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability from which a voxel is tumour.")] = None,
    smallest: Annotated[float | None, typer.Option(help="mm3 below which a component is dropped.")] = None,
    gate: Annotated[str | None, typer.Option(help="mm around the organ in which lesions are kept; or none.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one.")] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Predict finished cases again.")] = False,
) -> None:
    """Predict tumours in CTs; options not given are those of the run. Exit code 1 if a case failed."""
    from rsuper_train.predict import Predictor, predict_folder, read_ids

    asked = {"overlap": overlap, "mirror": mirror, "threshold": threshold, "smallest": smallest, "gate": gate}
    overrides: dict[str, object] = {name: value for name, value in asked.items() if value is not None}
    if mirror:
        overrides["mirror"] = () if mirror == "none" else tuple(mirror)
    if gate == "none":
        overrides["gate"] = None
    predictor = Predictor([run, *(also or ())], device, channels.split(",") if channels else None, overrides)
    ids = read_ids(cases) if cases else None
    if predict_folder(predictor, data, out, Console(), cases=ids, overwrite=overwrite):
        raise typer.Exit(1)


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
    channels: Annotated[str | None, typer.Option(help="Channels to judge, by commas; otherwise all.")] = None,
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
        channels=channels.split(",") if channels else (), recut=recut, workers=workers, seed=seed, console=console,
    )  # fmt: skip
    told = [f"{problem.case}: {problem.message}" for problem in result["problems"]]
    if len(told) > 10:
        told[10:] = [f"{len(told) - 10} more problems are in evaluation.json"]
    for line in told:
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(summary_table(result))
    console.print(f"Written: {escape(str(out / 'evaluation.html'))}", soft_wrap=True, highlight=False)


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="Run folder, or a checkpoint.")],
    prepared: Annotated[Path, typer.Argument(help="Folder that `rsuper prepare` wrote.")],
    reports: Annotated[Path, typer.Option(help="Table of tumours, as `rsuper reports extract` writes it.")],
    out: Annotated[Path, typer.Option(help="Folder for page, lists and cached crops.")] = Path("audit"),
    annotate: Annotated[int, typer.Option(min=0, help="Ids in annotate.txt.")] = 50,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Threads that score.")] = min(8, os.cpu_count() or 1),
) -> None:
    """Rank cases for annotation: those where network and reports disagree most. Exit code 1 if a case failed."""
    from rsuper_train.audit import run_audit, write_lists
    from rsuper_train.audit_page import write_page
    from rsuper_train.predict import Predictor
    from rsuper_train.reports.public_tables import read_any_table

    rows, predictor = read_any_table(reports), Predictor([run], device)
    result = run_audit(prepared, rows, predictor, out, Console(), workers)
    write_lists(result, predictor.channels, out, annotate)
    write_page(out / "audit.html", result, reports.name, predictor.options.threshold)
    typer.echo(f"{len(result.ranked)} cases ranked, {len(result.left_out)} not scored: {out / 'audit.html'}")
    if result.failed:
        raise typer.Exit(1)


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


@app.command()
def cohort(
    out: Annotated[Path, typer.Argument(help="Folder; a cohort of the same options in it is completed.")],
    kind: Annotated[Literal["phantom", "ct"], typer.Option(help="Ellipsoids, or copies of one real CT.")] = "phantom",
    cases: Annotated[int, typer.Option(help="Cases.")] = 70,
    masks: Annotated[int, typer.Option(help="The first so many cases come with lesion masks.")] = 10,
    seed: Annotated[int, typer.Option(help="With it and its number, a case is always the same.")] = 0,
    start: Annotated[int, typer.Option(help="Number of the first case, for disjoint cohorts of one seed.")] = 0,
    spacing: Annotated[tuple[float, float, float], typer.Option(help="mm of a phantom along D, H and W.")] = (
        3.0,
        3.0,
        3.0,
    ),
    thickest: Annotated[float, typer.Option(help="Slices of a phantom are up to this many times as thick.")] = 1.0,
    turned: Annotated[bool, typer.Option(help="Axes of the files in any order and direction.")] = False,
    label_map: Annotated[bool, typer.Option(help="Organs as one label map, not a mask for each class.")] = False,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Write a synthetic cohort: CTs, organ masks and reports, and apart from them the true lesions."""
    from rsuper_train.cohort import CohortOptions, PhantomOptions, write_cohort  # slow imports, not needed for --help

    phantom = PhantomOptions(spacing=spacing, thickest=thickest)
    write_cohort(CohortOptions(kind, cases, masks, seed, start, label_map, turned, phantom), out, workers, Console())
    Console().print(f"{escape(str(out))}: {cases} cases with reports, the first {min(masks, cases)} of them with masks")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the cohort and of the training.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; by default enough of them.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    train_cases: Annotated[int, typer.Option(min=1, help="Cases to train on.")] = 48,
    test_cases: Annotated[int, typer.Option(min=1, help="Cases with hidden masks.")] = 16,
) -> None:
    """Learn to segment tumours in a real CT from report sentences alone, and compare with hidden masks."""
    from rsuper_train.demo import run_demo  # slow imports, not needed for --help

    run_demo(app, out, seed, steps, threads, train_cases, test_cases, Console())


def main() -> None:
    """Entry point: mistakes of the user end in one sentence, not in a traceback."""
    # OpenMP's threads spin while they wait, which makes a training step several times slower when the cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except ModuleNotFoundError as error:
        _stop(f"{error}; this command needs the extra 'train': pip install 'rsuper-kernels[train]'")
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        _stop(str(error))


def _stop(message: str) -> None:
    """Say what is wrong and leave."""
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
