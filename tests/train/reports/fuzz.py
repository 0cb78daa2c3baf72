# SPDX-License-Identifier: Apache-2.0
"""Broken and absurd texts for extractors: `python -m tests.train.reports.fuzz 100000` counts crashes."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator

from rsuper_train.reports.rules import RulesExtractor
from rsuper_train.reports.schema import Report
from tests.train.reports.texts import REPORTS, SENTENCES

SEED = 5
PIECES = (
    "no", "without", "liver", "left", "segment", "IVa", "2.4", "x", "×", "by", "cm", "mm", "1,5", "-", "to", "and",
    "or",     ",", ";", ":", ".", "\n", "\n\n", "(", ")", "/", "<", ">", "previously", "largest", "both",
    "lesion", "cysts", "HCC",
    "kidney", "head", "upper pole", "series 3 image 45", "999999", "0 mm", "IMPRESSION:", "HISTORY:", "1.", "•", "??",
    "history of", "metastases from", "adjacent to", "the", "a", "two", "20", "respectively", "stone", "normal", "s/p",
    "½", "٣", "²", "\u00a0", "\x00", "İ", "ß", "ﬁ", "\ud800", "é", "肝", "😀", "<b>", "&nbsp;", "{\\rtf1",
)  # fmt: skip


def texts(count: int, seed: int = SEED) -> Iterator[str]:
    """Mutated sentences, spliced reports, shuffled words of reports, random unicode and bytes; the same for a seed."""
    kinds = (_mutated, _mutated, _spliced, _worded, _unicode, _bytes)
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        yield kinds[number % len(kinds)](rng)


def _mutated(rng: random.Random) -> str:
    characters = list(rng.choice(SENTENCES if rng.random() < 0.8 else REPORTS))
    edits: tuple[Callable[[list[str], int], None], ...] = (
        lambda chars, at: chars.pop(at) and None,
        lambda chars, at: chars.insert(at, rng.choice(PIECES)),
        lambda chars, at: chars.insert(at, chars[rng.randrange(len(chars))]),
        lambda chars, at: chars.__setitem__(at, chr(rng.randrange(1, 0x250))),
    )
    for _ in range(rng.randint(1, 12)):
        if characters:
            rng.choice(edits)(characters, rng.randrange(len(characters)))
    return "".join(characters)


def _spliced(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(2, 5)):
        text = rng.choice(REPORTS + SENTENCES)
        start = rng.randrange(len(text))
        parts.append(text[start : start + rng.randint(1, 200)])
    return rng.choice(("", " ", "\n", ". ")).join(parts)


def _worded(rng: random.Random) -> str:
    return rng.choice((" ", " ", "")).join(rng.choices(PIECES, k=rng.randint(1, 60)))


def _unicode(rng: random.Random) -> str:
    return "".join(chr(rng.randrange(rng.choice((0x80, 0x3000, 0x110000)))) for _ in range(rng.randint(0, 80)))


def _bytes(rng: random.Random) -> str:
    return rng.randbytes(rng.randint(0, 120)).decode(rng.choice(("latin-1", "utf-8", "utf-16")), "replace")


def faults(report: Report, text: str) -> list[str]:
    """What is wrong with a report of this text, whatever the text says."""
    wrong = []
    for tumour in report.tumours:
        if text[tumour.start : tumour.end] != tumour.sentence or not tumour.sentence:
            wrong.append(f"sentence {tumour.sentence!r} is not text[{tumour.start}:{tumour.end}]")
    if not text.strip() and report.flags != ("no text",):
        wrong.append(f"flags {report.flags} for an empty text")
    return wrong


def main(count: int) -> int:
    extractor = RulesExtractor()
    failed = 0
    for number, text in enumerate(texts(count)):
        try:
            wrong = faults(extractor.extract(f"fuzz {number}", text), text)
        except Exception as error:  # the point of fuzzing is to see every kind
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            failed += 1
            sys.stderr.write(f"{number}: {wrong[0]}\n  {text[:200]!r}\n")
    sys.stdout.write(f"{count} texts read, {failed} failed\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
