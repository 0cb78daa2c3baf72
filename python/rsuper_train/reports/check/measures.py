# SPDX-License-Identifier: Apache-2.0
"""Sizes written in a sentence, wherever they stand, and the words of a sentence that speak of a tumour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUMBER = r"\d{1,4}(?:[.,]\d{1,3})?(?!\d)"
UNIT = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b"
SIZE = rf"{NUMBER}\s{{0,3}}(?:{UNIT})?"
CHAIN = re.compile(rf"(?<![\d.,]){SIZE}(?:\s{{0,3}}(?:x|×|\*|by|to|-|–)\s{{0,3}}{SIZE}){{0,3}}", re.IGNORECASE)
PART = re.compile(rf"({NUMBER})\s{{0,3}}({UNIT})?", re.IGNORECASE)


@dataclass(frozen=True)
class Measure:
    """A length in a sentence: `mm`, how it is written, and the offsets of its chain ("2.4 x 1.9 cm")."""

    mm: float
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Piece:
    """A piece of a sentence; `kind` is "size", "lesion" or empty."""

    text: str
    kind: str = ""


def measures(sentence: str) -> list[Measure]:
    """All lengths with a unit; a number without one takes that of the number behind it ("2.4 x 1.9 cm")."""
    return [measure for chain in CHAIN.finditer(sentence) for measure in _chain(chain)]


def _chain(chain: re.Match[str]) -> Iterator[Measure]:
    parts = PART.findall(chain.group())
    units = [unit.lower() for _, unit in parts]
    text = chain.group().strip()
    for index, (number, _) in enumerate(parts):
        if unit := next(filter(None, units[index:]), ""):
            mm = float(number.replace(",", ".")) * (10 if unit.startswith("c") else 1)
            yield Measure(mm, text, chain.start(), chain.start() + len(chain.group().rstrip()))


def highlight(sentence: str, words: Sequence[str], diameters: Sequence[float] = ()) -> list[Piece]:
    """The sentence in pieces, its sizes and the lesion's words marked.

    Args:
        sentence: as written.
        words: what the lesion may be called, singular.
        diameters: of the lesion, in mm; where the sentence has them, only they are marked as sizes.
    """
    found = measures(sentence)
    own = [m for m in found if any(abs(m.mm - d) < 0.06 for d in diameters)]
    spans = {(m.start, m.end): "size" for m in own or found}
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if word)
    for match in re.finditer(rf"\b(?:{names})(?:e?s)?\b", sentence, re.IGNORECASE) if names else ():
        if not any(match.start() < end and start < match.end() for start, end in spans):
            spans[match.span()] = "lesion"
    pieces, at = [], 0
    for (start, end), kind in sorted(spans.items()):
        pieces += [Piece(sentence[at:start]), Piece(sentence[start:end], kind)]
        at = end
    return [piece for piece in (*pieces, Piece(sentence[at:])) if piece.text]
