# SPDX-License-Identifier: Apache-2.0
"""A report as words and the gaps between them, with offsets into the text as it was given."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import accumulate

GAP = re.compile(r"([\W_]+)")
ASCII_GAP = re.compile(r"([^a-z0-9]+)")
DASHES = "‐‑‒–—―−"
SPECIAL = {
    "×": "x", "✕": "x", "✖": "x", "⨯": "x", "≤": "<", "≥": ">", "⩽": "<", "⩾": ">", "•": "*", "·": "*", "●": "*",
    "\u2028": "\n", "\u2029": "\n", "\x85": "\n", "\x0b": "\n", "\x0c": "\n",
    "。": ".", "，": ",", "；": ";", "：": ":",
    **dict.fromkeys(DASHES, "-"),
}  # fmt: skip
# Longer gaps than this are not worth remembering; real ones are one to three characters.
REMEMBERED = 6


class Tokens:
    """Words (lower case, even "") and the class of the gap behind each; `starts` and `ends` are offsets in the text.

    A gap's class is "" for blanks, "-" for a hyphen, and otherwise its characters of meaning in order: , ; : . / ( ) <
    and >, * (bullet), ? (before a word), = (dash between blanks), n (end of a line), P (empty line).
    """

    __slots__ = ("ends", "gaps", "lowered", "starts", "text", "words")

    def __init__(self, text: str) -> None:
        self.text = text
        self.lowered = fold(text)
        parts = (ASCII_GAP if self.lowered.isascii() else GAP).split(self.lowered)
        offsets = list(accumulate(map(len, parts), initial=0))
        self.words = parts[0::2]
        self.gaps = list(map(_GAPS.__getitem__, parts[1::2]))
        self.gaps.append("P")
        self.starts = offsets[0:-1:2]
        self.ends = offsets[1::2]


def fold(text: str) -> str:
    """The text in lower case, without accents, with plain digits, blanks and dashes; as long as the text."""
    lowered = text.lower()
    if lowered.isascii() and len(lowered) == len(text):
        return lowered
    return text.translate({ord(char): _fold_char(char) for char in set(text)})


@lru_cache(maxsize=4096)
def _fold_char(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if char.isspace() and char not in "\n\r":
        return " "
    base = unicodedata.normalize("NFKD", char)[0].lower()
    return base if len(base) == 1 and char.isalpha() else char.lower()[0]


def _classify(gap: str) -> str:
    kept = []
    for position, char in enumerate(gap):
        if char in ",;:./()<>*":
            kept.append(char)
        elif char in "[{":
            kept.append("(")
        elif char in "]}":
            kept.append(")")
        elif char == "?" and position == len(gap) - 1 > 0:
            kept.append("?")
        elif char in "!?":
            kept.append(".")
        elif char == "\n":
            kept.append("n")
        elif char == "-":
            lonely = gap[position - 1 : position] == " " and gap[position + 1 : position + 2] in (" ", "-")
            kept.append("=" if lonely else "-")
    joined = "".join(kept)
    if joined.count("n") > 1:
        joined = joined.replace("n", "", joined.count("n") - 1).replace("n", "P")
    return joined


class _Gaps(dict[str, str]):
    """Classes of gaps, remembered for the short ones."""

    def __missing__(self, gap: str) -> str:
        kind = _classify(gap)
        if len(gap) <= REMEMBERED and len(self) < 10_000:
            self[gap] = kind
        return kind


_GAPS = _Gaps()
