# SPDX-License-Identifier: Apache-2.0
"""The concepts of a stretch of words: phrases (longest match), numbers, liver segments, sizes, marks of punctuation."""

from __future__ import annotations

from collections.abc import Iterable

from rsuper_train.reports.rules.concepts import (
    CLOSE,
    COLON,
    COMMA,
    DASH,
    LEFT,
    LOW,
    NUMBER,
    OPEN,
    ORGAN,
    PART,
    REFERENCE,
    RIGHT,
    SEMICOLON,
    SIZE,
    SLASH,
    SMALLER,
    Phrase,
    Phrases,
)
from rsuper_train.reports.rules.sizes import Size
from rsuper_train.reports.rules.tokens import Tokens
from rsuper_train.reports.vocabulary import ROMAN

SEGMENT_WORDS = frozenset(("segment", "segments", "seg", "segs", "couinaud"))
SEGMENTS = {
    form: number
    for number, roman in enumerate(map(str.lower, ROMAN), start=1)
    for form in (
        roman,
        str(number),
        *(f"{name}{half}" for name in (roman, str(number)) for half in "ab" if number == 4),
    )
}
# "seg7", "s7"; "s1" is the first sacral vertebra
JOINED = {
    f"{head}{form}": number
    for form, number in SEGMENTS.items()
    for head in ("seg", "segs", "segment", "s")
    if head != "s" or (form[0].isdigit() and number > 1)
}
NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "couple": 2, "pair": 2,
}  # fmt: skip
SPECIAL = SEGMENT_WORDS | JOINED.keys() | NUMBERS.keys()
MOST = 20
MARKS = {
    ",": COMMA,
    ";": SEMICOLON,
    ":": COLON,
    "(": OPEN,
    ")": CLOSE,
    "/": SLASH,
    "=": DASH,
    "<": SMALLER,
    ">": SMALLER,
    "?": LOW,
}
MARK = Phrase()
# Sides where an organ or a part follows: "L renal cyst".
LETTERS = {"l": LEFT, "r": RIGHT}
NAMES = ORGAN | PART


class Words:
    """The words of one sentence and the gaps behind them; items of the sentence count from its first word."""

    __slots__ = ("gaps", "words")

    def __init__(self, words: list[str], gaps: list[str]) -> None:
        self.words = words
        self.gaps = gaps


class Item:
    """One concept: bits of what it is, words start..end (exclusive), and what it means.

    `number` of a size is its position among those of the sentence; `changed`: it is what a "from ... to ..." ends with.
    `parts`, `number` and `size` are for liver segments, numbers and sizes; `off` says why a concept does not count
    (it is negated, history, a landmark, ...), "" where it does.
    """

    number = 0
    size: Size | None = None
    off = ""
    changed = False

    def __init__(self, kinds: int, start: int, end: int, phrase: Phrase = MARK) -> None:
        self.kinds = kinds
        self.start = start
        self.end = end
        self.phrase = phrase
        self.parts = phrase.parts


def kinds_of(items: Iterable[Item]) -> int:
    """All that the items are."""
    kinds = 0
    for item in items:
        kinds |= item.kinds
    return kinds


def item_before(items: list[Item], position: int, passing: int) -> int:
    """Position of the item before this one, past items of the kinds `passing`; -1 for none."""
    before = position - 1
    while before >= 0 and items[before].kinds & passing:
        before -= 1
    return before


def scan(
    tokens: Tokens, phrases: Phrases, first: int, last: int, sizes: dict[int, tuple[Size, int]] | None
) -> list[Item]:
    """Concepts of the words first..last (inclusive); `sizes` are by their first word, with the word behind."""
    words, gaps, get = tokens.words, tokens.gaps, phrases.by_first.get
    sizes = sizes or {}
    items: list[Item] = []
    index = first
    while index <= last:
        start = index
        word = words[start]
        index += 1
        entry = get(word)
        if start in sizes:
            size, index = sizes[start]
            item = Item(SIZE, start, index)
            item.size = size
            items.append(item)
        elif entry is not None:
            phrase, longer = entry
            if longer is not None and index <= last and words[index] in longer:
                for rest, between, option in longer[words[index]]:
                    behind = index + len(rest)
                    if behind <= last + 1 and words[index:behind] == rest and _joined(gaps, start, between):
                        phrase, index = option, behind
                        break
            if index == start + 1 and word in SPECIAL:
                known = len(items)
                index = _special(tokens, start, last, items, sizes)
                if len(items) > known:
                    phrase = None
            if phrase is not None:
                side = LETTERS.get(words[start - 1]) if phrase.kinds & NAMES and start > first else None
                if side and gaps[start - 1] == "" and (not items or items[-1].end < start):
                    items.append(Item(side, start - 1, start))
                items.append(Item(phrase.kinds, start, index, phrase))
        elif word in SPECIAL:
            index = _special(tokens, start, last, items, sizes)
        elif word.isdecimal() and len(word) < 3:
            _number(items, start, int(word))
        gap = gaps[index - 1]
        if gap and index <= last:
            for char in gap:
                kind = MARKS.get(char)
                if kind:
                    items.append(Item(kind, index, index))
    return items


def _joined(gaps: list[str], start: int, between: list[str]) -> bool:
    for offset, wanted in enumerate(between):
        gap = gaps[start + offset]
        if gap != wanted and (wanted or gap not in ("-", "n", "=")):
            return False
    return True


def _special(tokens: Tokens, start: int, last: int, items: list[Item], sizes: dict[int, tuple[Size, int]]) -> int:
    """A number in letters or a liver segment at this word; returns the word behind."""
    word = tokens.words[start]
    if word in NUMBERS:
        _number(items, start, NUMBERS[word])
        return start + 1
    return _segments(tokens, start, last, items, sizes)


def _number(items: list[Item], start: int, number: int) -> None:
    if items and items[-1].kinds & REFERENCE and items[-1].end == start:
        items[-1].end = start + 1
    elif 0 < number <= MOST:
        item = Item(NUMBER, start, start + 1)
        item.number = number
        items.append(item)


def _segments(tokens: Tokens, start: int, last: int, items: list[Item], sizes: dict[int, tuple[Size, int]]) -> int:
    """Append the segments named from here on ("segments II-IV, VI and 7"); return the word behind them."""
    words = tokens.words
    word = words[start]
    found: list[int] = []
    index = start
    if word in SEGMENT_WORDS:
        index += 1
        if index <= last and words[index] in SEGMENT_WORDS:
            index += 1
        if index > last or words[index] not in SEGMENTS or index in sizes:
            return start + 1
        found.append(SEGMENTS[words[index]])
        index += 1
    else:
        found.append(JOINED[word])
        index += 1
    while index <= last:
        step = _next_segment(tokens, index, last, sizes)
        if step is None:
            break
        joint, at, number = step
        if joint == "-" and number > found[-1]:
            found += range(found[-1] + 1, number + 1)
        else:
            found.append(number)
        index = at + 1
    item = Item(PART, start, index)
    item.parts = {"liver": tuple(f"segment {number}" for number in dict.fromkeys(found))}
    items.append(item)
    return index


def _next_segment(
    tokens: Tokens, index: int, last: int, sizes: dict[int, tuple[Size, int]]
) -> tuple[str, int, int] | None:
    """(joint, word, number) of another segment behind the word before `index`."""
    words, gaps = tokens.words, tokens.gaps
    gap = gaps[index - 1]
    word = words[index]
    joint = "-" if gap == "-" or gap == "=" else ""
    if gap in ("", ",", ",n", "n") and word in ("and", "or", "to", "through", "into") and index < last:
        joint = "-" if word in ("to", "through") else ","
        index += 1
        if gaps[index - 1] not in ("", "n"):
            return None
        word = words[index]
        if word in SEGMENT_WORDS and index < last:
            index += 1
            word = words[index]
    elif gap not in ("/", ",", "-", "="):
        return None
    if word in ("a", "b") and gap in ("/", "-"):
        return ",", index, 4
    number = JOINED.get(word) or SEGMENTS.get(word)
    return None if number is None or index in sizes else (joint, index, number)
