# SPDX-License-Identifier: Apache-2.0
"""How well and how fast the embedded rules read reports: `python -m benchmarks.reports` writes results/reports.json."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.figures import RESULTS

RESULT = RESULTS / "reports.json"
LABELLED = Path(__file__).resolve().parent.parent / "tests" / "train" / "reports"
FILES = {
    "sentences.yaml": "developed with",
    "unseen.yaml": "measures only",
    "blind.yaml": "measures only",
}
GENERATED = 2000
ROUNDS = 5


def measure() -> dict[str, Any]:
    """F1 on each labelled file, and reports a second in one process on generated reports."""
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
    speed = result["speed"]
    rate, characters = speed["reports_per_second"], speed["characters"]
    lines += [
        "",
        f"{rate:,.0f} reports a second on one core, of {characters:,.0f} characters on the average (generated).",
    ]
    return "\n".join(lines)


def read() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(RESULT.read_text())
    return result


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


def _speed(extractor: Any) -> dict[str, float]:
    texts = generated(GENERATED)
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for number, text in enumerate(texts):
            extractor.extract(str(number), text)
        seconds.append(time.perf_counter() - start)
    return {
        "reports_per_second": round(len(texts) / statistics.median(seconds)),
        "characters": round(statistics.mean(map(len, texts))),
    }


def generated(count: int) -> list[str]:
    """Whole reports about nine places with zero to four lesions, from history to impression."""
    import numpy as np

    from rsuper_train.reports.generator import write_report
    from rsuper_train.reports.schema import Place, Tumour

    paired = ("kidney", "adrenal gland")
    organs = ("liver", "spleen", "pancreas", "gallbladder", "bladder")
    places = [Place(organ=organ) for organ in organs]
    places += [Place(organ=organ, laterality=side) for organ in paired for side in ("left", "right")]
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        tumours = [
            Tumour(**places[int(rng.integers(len(places)))].model_dump(), diameters=(float(rng.integers(5, 90)),))
            for _ in range(rng.integers(5))
        ]
        texts.append(write_report(tumours, rng, places, style="sections", clutter=0.6).text)
    return texts


if __name__ == "__main__":
    RESULT.write_text(json.dumps(measure(), indent=2) + "\n")
    sys.stdout.write(f"{table(read())}\n")
