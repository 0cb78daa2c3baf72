# SPDX-License-Identifier: Apache-2.0
"""Whatever the text: no crash, exact offsets, linear time."""

import gc
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.rules.tokens import Tokens, fold
from tests.train.reports.fuzz import PIECES, faults, texts
from tests.train.reports.rows import extract, extractor
from tests.train.reports.texts import REPORTS, SENTENCES

FRESH = RulesExtractor()
PHRASES = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map(" ".join)


@given(st.one_of(st.text(), PHRASES))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(text: str) -> None:
    report = extract(text)
    assert faults(report, text) == []
    assert extract(text) == report


@given(st.text())
def test_folding_keeps_offsets(text: str) -> None:
    assert len(fold(text)) == len(text)
    tokens = Tokens(text)
    assert len(tokens.words) == len(tokens.gaps) == len(tokens.starts) == len(tokens.ends)
    assert [tokens.lowered[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)] == tokens.words


def test_what_was_read_before_changes_nothing() -> None:
    for text in (*REPORTS, *SENTENCES):
        assert extract(text) == FRESH.extract("case", text)
        FRESH._parses.clear()


def test_fuzzed_texts() -> None:
    for text in texts(1200):
        assert faults(extract(text), text) == [], text


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("", "no text"),
        (" \n\t ", "no text"),
        ("Patient did not attend.", "no sentence about an organ"),
        (
            "Die Leber zeigt im rechten Lappen einen Herd, der als Metastase zu werten ist, sonst nichts.",
            "not English?",
        ),
        ("Liver normal.\x00\x01", "control characters"),
    ],
)
def test_flags(text: str, flag: str) -> None:
    assert flag in extract(text).flags


@pytest.mark.parametrize("report", REPORTS)
def test_good_reports_have_no_flags(report: str) -> None:
    assert extract(report).flags == ()


@pytest.mark.parametrize(
    "piece",
    ["a", " ", "\n", ".", "1", "2 x ", "2 cm and ", "segments 1, ", "cysts in the liver ", "no lesion or ", "liver: ",
     "(", "multiple cysts ", "Liver cysts. Another 2 cm. ", "The largest lesion measures 3 mm. ", REPORTS[1]],
    ids=lambda piece: piece[:12],
)  # fmt: skip
def test_time_is_linear(piece: str) -> None:
    seconds = {size: _seconds(piece * (size // len(piece))) for size in (50_000, 200_000)}
    assert seconds[200_000] < 8 * seconds[50_000] + 0.2
    assert seconds[200_000] < 10


def _seconds(text: str) -> float:
    """Of the faster of two readings; the objects of other tests are kept from the garbage collector."""
    gc.freeze()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        extractor().extract("long", text)
        seconds.append(time.process_time() - start)
    gc.unfreeze()
    return min(seconds)
