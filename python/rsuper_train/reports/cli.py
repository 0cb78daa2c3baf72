# SPDX-License-Identifier: Apache-2.0
"""The command line of reports: `rsuper reports extract`, `check`, `score` and `columns`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rsuper_train.reports.check.cli import check

if TYPE_CHECKING:
    from rsuper_train.reports.inputs import Document
    from rsuper_train.reports.llm import LlmSettings
    from rsuper_train.reports.schema import Report

app = typer.Typer(help="From radiology reports to a table of tumours.", no_args_is_help=True)

app.command()(check)

LLM = "Language model"


class Kind(str, Enum):
    rules = "rules"
    llm = "llm"
    consensus = "consensus"


@app.command()
def extract(
    reports: Annotated[Path, typer.Argument(metavar="IN", help="CSV, TSV or Parquet with one report a row.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The table: .csv, .tsv or .parquet.")],
    extractor: Annotated[Kind, typer.Option(help="What reads the reports; consensus is both.")] = Kind.rules,
    vocabulary: Annotated[list[Path] | None, typer.Option(help="Words of your own; may be repeated.")] = None,
    id_column: Annotated[str | None, typer.Option(help='Column of the ids; the default is "id".')] = None,
    text_column: Annotated[str | None, typer.Option(help='Column of the texts; the default is "report".')] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes for the rules; default: one a core.")] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint.", rich_help_panel=LLM)] = None,
    model: Annotated[str | None, typer.Option(help="Its name at the endpoint.", rich_help_panel=LLM)] = None,
    api_key_env: Annotated[str | None, typer.Option(help="Variable with the key.", rich_help_panel=LLM)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight.", rich_help_panel=LLM)] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for an answer.", rich_help_panel=LLM)] = None,
    retries: Annotated[int | None, typer.Option(help="After invalid answers.", rich_help_panel=LLM)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of one answer.", rich_help_panel=LLM)] = None,
    prices: Annotated[
        tuple[float, float] | None, typer.Option(help="Per million tokens in and out.", rich_help_panel=LLM)
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Any other, NAME=JSON: temperature=null.", rich_help_panel=LLM)
    ] = None,
    journal: Annotated[
        Path | None, typer.Option(help="Answers so far; default: OUT.journal.jsonl.", rich_help_panel=LLM)
    ] = None,
) -> None:
    """Extract the tumours of reports into a table, one row per tumour and one for a report without any.

    With --extractor consensus, what rules and model read differently is listed in OUT.review.csv.
    """
    # slow imports, not needed for --help
    from rsuper_train.reports.extract import join, llm_extractor, rules_extractor, summary, write_review
    from rsuper_train.reports.inputs import read_reports
    from rsuper_train.reports.table import check_suffix, write_table
    from rsuper_train.reports.vocabulary import load_vocabulary

    _check_paths(reports, out)
    check_suffix(out)
    settings = None
    if extractor is not Kind.rules:
        settings = _settings(
            _further(setting or ()),
            base_url=base_url,
            model=model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            max_tokens=max_tokens,
            prices=prices,
        )
    words = vocabulary or ()
    load_vocabulary(words)  # a mistake in it is found before the reports are read
    documents = read_reports(reports, id_column, text_column)
    console = Console(stderr=True)
    read: list[list[Report]] = []
    if extractor is not Kind.llm:
        read.append(_by_rules(documents, partial(rules_extractor, tuple(words)), workers, console))
    if settings is not None:
        asked = llm_extractor(settings, words)
        read.append(_by_llm(documents, asked, journal or _beside(out, ".journal.jsonl"), console))
        console.print(escape(str(asked.usage)), highlight=False, soft_wrap=True)
    result = read[0]
    if extractor is Kind.consensus:
        result, found = join(*read)
        write_review(found, _beside(out, ".review.csv"))
        typer.echo(f"{len(found):,} disagreement{'s' * (len(found) != 1)} to review: {_beside(out, '.review.csv')}")
    rows = write_table(result, out)
    typer.echo(f"{summary(result, rows)} to {out}")


@app.command()
def score(
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Table of the same reports, corrected by hand.")],
    found: Annotated[Path, typer.Argument(metavar="FOUND", help="Table of an extractor.")],
    vocabulary: Annotated[list[Path] | None, typer.Option(help="Words of your own; may be repeated.")] = None,
) -> None:
    """Compare an extractor's table with one corrected by hand, and list the reports that differ.

    Rows agree in organ, side, sub-segments and diameters. Reports of one table alone are left out.
    """
    from rsuper_train.reports.public_tables import read_any_table
    from rsuper_train.reports.score import score as compare
    from rsuper_train.reports.vocabulary import load_vocabulary

    words = load_vocabulary(vocabulary or ())
    expected, got = ({report.id: report for report in read_any_table(path, words)} for path in (truth, found))
    common = [id for id in expected if id in got]
    if not common:
        raise ValueError(f"{truth} and {found} have no report in common")
    result = compare([expected[id] for id in common], [got[id] for id in common])
    typer.echo(f"{len(common):,} reports, {len(expected) + len(got) - 2 * len(common):,} in one table alone")
    typer.echo(f"rows         {result.triples}")
    typer.echo(f"attenuation  {result.attenuation}")
    if result.wrong:
        typer.echo(f"different: {', '.join(result.wrong)}")


@app.command()
def columns() -> None:
    """List the columns of the table of tumours."""
    from rsuper_train.reports.table import COLUMNS

    width = max(map(len, COLUMNS))
    for name, meaning in COLUMNS.items():
        typer.echo(f"{name:{width}}  {meaning}")


def _check_paths(reports: Path, out: Path) -> None:
    if not reports.is_file():
        raise FileNotFoundError(f"{reports}: there is no such file")
    if out.is_dir() or out.resolve() == reports.resolve():
        raise ValueError(f"{out}: expected the name of a file for the table, other than that of the reports")


def _further(settings: Sequence[str]) -> dict[str, Any]:
    """Settings given as NAME=JSON."""
    found = {}
    for text in settings:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"--setting: expected NAME=JSON such as temperature=null, got {text!r}") from None
    return found


def _settings(further: Mapping[str, Any], **chosen: Any) -> LlmSettings:
    """The settings of the language model; what was not chosen has its own default."""
    given = {name: value for name, value in chosen.items() if value is not None} | dict(further)
    missing = [f"--{name.replace('_', '-')}" for name in ("base_url", "model") if name not in given]
    if missing:
        raise ValueError(f"the language model needs {' and '.join(missing)}")
    from pydantic import ValidationError

    from rsuper_train.reports.llm import LlmSettings

    try:
        return LlmSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0] if first["loc"] else "base_url").replace("_", "-")
        raise ValueError(f"--{option}: {first['msg'].removeprefix('Value error, ')}") from None


def _by_rules(
    documents: Sequence[Document], make: Callable[[], Any], workers: int | None, console: Console
) -> list[Report]:
    from rsuper_train.reports.extract import extract_locally
    from rsuper_train.reports.progress import report_progress

    with report_progress(len(documents), console, "rules") as on_done:
        return extract_locally(documents, make, workers, on_done)


def _by_llm(documents: Sequence[Document], extractor: Any, journal: Path, console: Console) -> list[Report]:
    from rsuper_train.reports.extract import extract_by_llm
    from rsuper_train.reports.progress import report_progress

    with report_progress(len(documents), console, extractor.name) as on_done:
        return extract_by_llm(documents, extractor, journal, on_done)


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(f"{out.stem}{suffix}")
