# SPDX-License-Identifier: Apache-2.0
"""How well and how fast the embedded rules read reports: `python -m benchmarks.reports` writes results/reports.json."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import RESULTS, keep, read

RESULT = RESULTS / "reports.json"
LABELLED = Path(__file__).resolve().parent.parent / "tests" / "train" / "reports"
FILES = {
    "sentences.yaml": "developed with",
    "third.yaml": "developed with: everyday wording",
    "unseen.yaml": "developed with, at the end",
    "more.yaml": "developed with: hard wording",
    "blind.yaml": "measures only",
}
REPORTS = 1000
ROUNDS = 5


def measure() -> dict[str, Any]:
    """F1 on each labelled file, and reports a second in one process."""
    from rsuper_train.reports.rules import RulesExtractor

    extractor = RulesExtractor()
    return {"labelled": {name: _score(name, extractor) for name in FILES}, "speed": _speed(extractor)}


def table(result: Mapping[str, Any]) -> str:
    """The result for the docs."""
    lines = [
        "| labelled texts | | items | rows | F1 of (organ, part, side, diameters) | F1 of attenuation |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["labelled"].items():
        link = f"[{name}](../tests/train/reports/{name})"
        lines.append(
            f"| {link} | {FILES[name]} | {row['items']} | {row['rows']} | {row['triples']:.3f} "
            f"| {row['attenuation']:.3f} |"
        )
    varied, renamed = result["speed"]["varied"], result["speed"]["renamed"]
    recurring = (
        f"{varied['reports_per_second']:,.0f} reports of {varied['characters']:,.0f} characters a second on one core "
        "where sentences without a size recur, as templates make them;"
    )
    lines += ["", recurring, f"{renamed['reports_per_second']:,.0f} where no sentence is as in another report."]
    return "\n".join(lines)


def _score(name: str, extractor: Any) -> dict[str, Any]:
    from rsuper_train.reports.schema import Report, Tumour
    from rsuper_train.reports.score import score

    items = yaml.safe_load((LABELLED / name).read_text(encoding="utf-8"))
    expected = [Report(id=item["id"], tumours=[Tumour(**row) for row in item["tumours"]]) for item in items]
    result = score(expected, [extractor.extract(item["id"], item["text"]) for item in items])
    return {
        "items": len(items),
        "rows": sum(len(report.tumours) for report in expected),
        "triples": round(result.triples.f1, 3),
        "attenuation": round(result.attenuation.f1, 3),
    }


def _speed(extractor: Any) -> dict[str, dict[str, float]]:
    """Of reports with other sizes each, and of reports in which no sentence is as in another."""
    from benchmarks.bench_reports import renamed, varied

    return {name: _rate(extractor, make(REPORTS)) for name, make in (("varied", varied), ("renamed", renamed))}


def _rate(extractor: Any, texts: Sequence[str]) -> dict[str, float]:
    seconds = []
    for _ in range(ROUNDS):
        extractor._parses.clear()
        start = time.perf_counter()
        for number, text in enumerate(texts):
            extractor.extract(str(number), text)
        seconds.append(time.perf_counter() - start)
    return {
        "reports_per_second": round(len(texts) / statistics.median(seconds)),
        "characters": round(statistics.mean(map(len, texts))),
    }


if __name__ == "__main__":
    keep(RESULT, measure())
    sys.stdout.write(f"{table(read(RESULT))}\n")
