# SPDX-License-Identifier: Apache-2.0
"""Rows of a report as short strings, so that tests read as tables."""

from functools import cache

from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.schema import Report, Tumour


@cache
def extractor() -> RulesExtractor:
    return RulesExtractor()


def extract(text: str) -> Report:
    return extractor().extract("case", text)


def rows(text: str) -> list[str]:
    """ "left kidney, upper pole: 32 x 20 hypo"; "?" for no size, "many" for an uncounted number."""
    return [_row(tumour) for tumour in extract(text).tumours]


def negatives(text: str) -> list[str]:
    return [str(place) for place in extract(text).negatives]


def _row(tumour: Tumour) -> str:
    size = " x ".join(f"{diameter:g}" for diameter in tumour.diameters) or ("?" if tumour.count_known else "many")
    looks = "" if tumour.attenuation == "unknown" else f" {tumour.attenuation}"
    return f"{tumour}: {size}{looks}"
