# SPDX-License-Identifier: Apache-2.0
"""The figures as they were measured, and as tables. Needs no torch: docs/render.py reads it, too."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
FIGURES = RESULTS / "figures.json"
REPORT = RESULTS / "figures.md"

BUSY = 0.5
"""Load of the machine above which times mean little: two threads wait for the one that another program has stopped."""

MEMORY = (
    "Memory: bit masks, block sums and sorted ranks, and scratch that is kept for the next step; close to the limit, "
    "single measurements fall on either side"
)

Row = dict[str, Any]


def settle(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows with their limits: those on top of another row's copies take what that row measured."""
    settled = {}
    for name, row in rows.items():
        beyond = rows.get(row["beyond"])
        if row["beyond"] and beyond is None:
            # without that row nothing can be said
            settled[name] = {**row, "limit": None}
        else:
            settled[name] = {**row, "limit": row["at_most"] + (beyond["copies"] if beyond else 0.0)}
    return settled


def loss_table(rows: Mapping[str, Row], memory_at_most: float) -> str:
    """Time and memory of our losses, against what they may take."""
    lines = _head(
        [
            "forward and backward",
            "ms",
            "copies",
            "at most",
            "met",
            "fresh copies",
            "extra memory",
            f"≤ {memory_at_most}",
        ]
    )
    for row in settle(rows).values():
        limit = row["limit"]
        lines.append(
            _line(
                row["title"],
                _number(row["ms"]),
                f"{row['copies']:.1f}",
                "" if limit is None else f"{limit:.1f}",
                "" if limit is None else _met(row["copies"] <= limit),
                f"{row['clones']:.1f}",
                f"{row['extra_memory']:.2f}",
                _met(row["extra_memory"] <= memory_at_most),
            )
        )
    return "\n".join(lines)


def comparison_table(rows: Mapping[str, Row]) -> str:
    """Ours and the baselines on the same inputs."""
    lines = _head(["against", "ms", "theirs, ms", "times as fast", "at least", "met"])
    for row in _named(rows):
        lines.append(
            _line(
                row["title"],
                _number(row["ms"]),
                _number(row["their_ms"]),
                f"{row['times']:,.0f}",
                f"{row['at_least']:,.0f}",
                _met(row["times"] >= row["at_least"]),
            )
        )
    return "\n".join(lines)


def _named(comparisons: Mapping[str, Row]) -> list[Row]:
    """The comparisons, whose titles say against what."""
    others = ["dense convolutions" if name.startswith("dense") else "plain torch" for name in comparisons]
    return [
        {**row, "title": f"{other}: {row['title']}"} for other, row in zip(others, comparisons.values(), strict=True)
    ]


def explanations(figures: Mapping[str, Any]) -> list[str]:
    """What bounds the rows that are not met, those with the same reason together."""
    losses = settle(figures["losses"]).values()
    unmet = [row for row in losses if row["limit"] is not None and row["copies"] > row["limit"]]
    unmet += [{**row, "bound": MEMORY} for row in losses if row["extra_memory"] > figures["memory_at_most"]]
    unmet += [row for row in _named(figures["comparisons"]) if row["times"] < row["at_least"]]
    reasons: dict[str, list[str]] = {}
    for row in unmet:
        reasons.setdefault(row["bound"] or "Not explained yet", []).append(row["title"])
    return [f"- {reason}: {'; '.join(titles)}." for reason, titles in reasons.items()]


def caption(figures: Mapping[str, Any]) -> str:
    """Where, of what and in which unit the figures are."""
    where = figures["machine"]
    times = figures["losses"].get("volume", {})
    unit = f" (here {times['copy_ms']:.1f} ms; into fresh memory {times['clone_ms']:.1f} ms)" if times else ""
    text = (
        f"Medians on {where['cpu']}, {where['threads']} threads of {where['cores']} cores, torch {where['torch']}, "
        f"commit {where['commit']}; fp32, B=2, 3 lesion channels of 128^3 unless said otherwise. A copy reads the "
        f"logits and writes as much into memory that is there{unit}, in turn with each row. Extra memory is the step's "
        "peak beside inputs and gradients, in sizes of the logits."
    )
    return textwrap.fill(text, 120)


def report(figures: Mapping[str, Any]) -> str:
    """Everything, for the terminal."""
    parts = []
    if figures["losses"]:
        parts += [loss_table(figures["losses"], figures["memory_at_most"]), ""]
    if figures["comparisons"]:
        parts += [comparison_table(figures["comparisons"]), ""]
    load = figures["machine"]["load"]
    busy = [f"The machine was busy before the run (load {load}): measure again."] if load > BUSY else []
    return "\n".join([*parts, *explanations(figures), "", caption(figures), *busy])


def readme(figures: Mapping[str, Any]) -> str:
    """What a user wants to know, for the README: times, memory, and the same losses in plain torch."""
    losses = _head(["forward and backward", "ms", "copies", "extra memory"])
    for row in figures["losses"].values():
        cells = (_number(row["ms"]), f"{row['copies']:.1f}", f"{row['extra_memory']:.2f}")
        losses.append(_line(row["title"], *cells))
    others = _head(["against", "ms", "theirs, ms", "times as fast"])
    for row in _named(figures["comparisons"]):
        others.append(_line(row["title"], _number(row["ms"]), _number(row["their_ms"]), f"{row['times']:,.0f}"))
    return "\n\n".join([caption(figures), "\n".join(losses), "\n".join(others)])


def whole_report(figures: Mapping[str, Any]) -> str:
    """Everything, against the limits that we set ourselves, as a page."""
    reasons = explanations(figures)
    parts = [
        "# The figures, against the limits that we set ourselves",
        "Written by `make bench`.",
        caption(figures),
        loss_table(figures["losses"], figures["memory_at_most"]),
        comparison_table(figures["comparisons"]),
        *(["What bounds the rows that are not met:", "\n".join(reasons)] if reasons else []),
    ]
    return "\n\n".join(parts) + "\n"


def write(figures: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    rounded = json.loads(json.dumps(figures), parse_float=lambda number: round(float(number), 4))
    FIGURES.write_text(json.dumps(rounded, indent=1) + "\n")
    REPORT.write_text(whole_report(rounded))


def read(path: Path = FIGURES) -> dict[str, Any]:
    """What a measurement left in `results`."""
    return json.loads(path.read_text())


def keep(path: Path, result: Mapping[str, Any]) -> None:
    """Leave a measurement's result in `results`."""
    path.write_text(json.dumps(result, indent=2) + "\n")


def _head(names: Sequence[str]) -> list[str]:
    return [_line(*names), "|---" * len(names) + "|"]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _met(met: bool) -> str:
    return "yes" if met else "NO"
