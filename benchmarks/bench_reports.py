# SPDX-License-Identifier: Apache-2.0
"""Reports per second of the embedded extractor, on one core; `extra_info` has the figure."""

import pytest

from rsuper_train.reports.rules import RulesExtractor
from tests.train.reports.texts import REPORTS


@pytest.mark.benchmark(group="reports: rules, reports of 1.4 to 2 kB")
def test_rules(benchmark) -> None:
    extractor = RulesExtractor()

    def read() -> None:
        for text in REPORTS:
            extractor.extract("case", text)

    benchmark(read)
    benchmark.extra_info["reports per second"] = len(REPORTS) / benchmark.stats.stats.median
    benchmark.extra_info["bytes per report"] = sum(map(len, REPORTS)) / len(REPORTS)
