# SPDX-License-Identifier: Apache-2.0
"""Finding in a report what a model says it has copied from it."""

from __future__ import annotations

import re
from functools import cached_property

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-", "×": "x"})
_AROUND = " .,;:\"'…"


class Text:
    """A report in which quotes and sizes are looked up."""

    def __init__(self, text: str) -> None:
        self._text = text

    def find(self, quote: str) -> tuple[int, int] | None:
        """First place of the quote, as offsets (start, end); spaces, case and typographic signs may differ.

        None where it is not in the text, or is empty.
        """
        quote = quote.strip()
        start = self._text.find(quote)
        if quote and start >= 0:
            return start, start + len(quote)
        plain, origins = self._plain
        folded = _fold(quote)[0]
        for needle in (folded, folded.strip(_AROUND)):
            start = plain.find(needle)
            if needle and start >= 0:
                return origins[start], origins[start + len(needle) - 1] + 1
        return None

    def has_sizes(self, millimetres: tuple[float, ...]) -> bool:
        """Whether the text has all these numbers, in mm or in cm."""
        return all(round(value, 3) in self._numbers or round(value / 10, 3) in self._numbers for value in millimetres)

    @cached_property
    def _plain(self) -> tuple[str, list[int]]:
        return _fold(self._text)

    @cached_property
    def _numbers(self) -> set[float]:
        return {round(float(number.replace(",", ".")), 3) for number in _NUMBER.findall(self._text)}


def _fold(text: str) -> tuple[str, list[int]]:
    """`text` in lower case, with single spaces and plain signs, and each character's offset in `text`."""
    characters: list[str] = []
    origins: list[int] = []
    for origin, character in enumerate(text.translate(_PLAIN)):
        plain = " " if character.isspace() else character.lower()
        if plain == " " and characters and characters[-1] == " ":
            continue
        characters.extend(plain)
        origins.extend([origin] * len(plain))
    return "".join(characters), origins
