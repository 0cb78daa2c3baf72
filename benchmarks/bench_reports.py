# SPDX-License-Identifier: Apache-2.0
"""Reports per second of the embedded extractor, on one core, for reports of 15 to 30 sentences; see `extra_info`."""

import random
import re

import pytest

from rsuper_train.reports.rules import RulesExtractor
from tests.train.reports.texts import REPORTS

SIZE = re.compile(r"\d(?=(?:\.\d+)? ?(?:x|mm|cm))")
LONG = [text for text in REPORTS if len(text) > 1000]


def varied(count: int) -> list[str]:
    """Reports with other sizes each: their sentences with a size are new, the others are as in every report."""
    rng = random.Random(0)
    return [SIZE.sub(lambda _: str(rng.randint(1, 9)), LONG[number % len(LONG)]) for number in range(count)]


def renamed(count: int) -> list[str]:
    """Reports in which every sentence is new: a word that means nothing is put before each full stop."""
    return [re.sub(r"(?=\.\s)", f" w{number}", LONG[number % len(LONG)]) for number in range(count)]


@pytest.mark.parametrize("make", [varied, renamed], ids=["new sizes", "new sentences"])
@pytest.mark.benchmark(group="reports: rules, 200 reports")
def test_rules(benchmark, make) -> None:
    extractor = RulesExtractor()
    texts = make(200)

    def read() -> None:
        extractor._parses.clear()
        for text in texts:
            extractor.extract("case", text)

    benchmark.pedantic(read, rounds=5)
    benchmark.extra_info["reports per second"] = len(texts) / benchmark.stats.stats.median
    benchmark.extra_info["characters per report"] = sum(map(len, texts)) / len(texts)
