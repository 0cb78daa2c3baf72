# SPDX-License-Identifier: Apache-2.0
"""Sizes in a text: "2.4 x 1.9 cm", "12mm", "1-2 cm", "1.2 and 0.8 cm", as millimetres with offsets."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from rsuper_train.reports.rules.tokens import Tokens

# Everything is bounded, so that no text makes the search slower than linear.
NUMBER = r"(?:\d{1,4}(?:[.,]\d{1,3})?|\.\d{1,2})"
UNIT = r"(?:(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?|mms|cms)(?![\w^²³]|\s?/\s?[a-z]|\s?hg\b))"
AXES = "ap|transverse|trans|trv|tr|tv|cc|si|ml|w|h|d|sag|axial|coronal|sagittal|craniocaudal|anteroposterior"
AXIS = rf"(?:\((?:{AXES})\)|(?:{AXES})\b)"
LINK = (
    r"(?:\s{0,2}(?:x|by|\*)\s{0,2}|\s{0,2},?\s{1,2}(?:and|or|&)\s{1,2}|,\s{1,2}"
    r"|\s{0,2}(?:-|→|->)\s{0,2}|\s{1,2}to\s{1,2})"
)
VALUE = rf"{NUMBER}(?:\s{{0,2}}-?{UNIT})?(?:\s{{0,2}}{AXIS}(?:\s{{0,2}}{UNIT})?)?"
RUN = re.compile(rf"{VALUE}(?:{LINK}{VALUE}){{0,8}}")
# The common form: one unit at the end, and no list or range.
SIMPLE = re.compile(
    rf"({NUMBER})(?:\s?x\s?({NUMBER}))?(?:\s?x\s?({NUMBER}))?[ -]?({UNIT})(?!\s{{0,2}}{AXIS})(?!{LINK}{NUMBER})"
)
PART = re.compile(rf"({LINK})?({NUMBER})(?:\s{{0,2}}-?({UNIT}))?(?:\s{{0,2}}({AXIS})(?:\s{{0,2}}({UNIT}))?)?")
BEFORE_NO_SIZE = re.compile(
    r"(?:segments?|segs?|images?|im|img|series|se|ser|slices?|level|bosniak|lr|category|grade|stage|type|class|number|in|on)"
    r"[\s#:.]{0,3}$"
)
DIGITS = frozenset("0123456789")
MULTIPLIERS = {"m": 1.0, "c": 10.0}


@dataclass(slots=True)
class Size:
    """Diameters in mm of one lesion as written in text[start:end].

    A range has its larger value; `upper` is what stands behind the "to", which after a "from" is the current size.
    """

    diameters: tuple[float, ...]
    start: int
    end: int
    upper: tuple[float, ...] = ()
    axis: bool = False

    @property
    def kind(self) -> str:
        """All of it but the numbers, which is all that the reading of a sentence depends on."""
        return f"\x01{len(self.diameters)}{'u' if self.upper else ''}{'a' if self.axis else ''}"


def find_sizes(tokens: Tokens, first: int, last: int) -> dict[int, tuple[Size, int]]:
    """The sizes among the words first..last by their first word, each with the word behind its last."""
    text, starts = tokens.lowered, tokens.starts
    words = tokens.lowered[starts[first] : tokens.ends[last]]
    if "mm" not in words and "cm" not in words and "met" not in words:
        return {}
    found: dict[int, tuple[Size, int]] = {}
    behind = 0
    for index, word in enumerate(tokens.words[first : last + 1], first):
        if word[:1] not in DIGITS or not word:
            continue
        start = starts[index]
        if start < behind or not _may_begin(text, start):
            continue
        if text[start - 1 : start] == ".":
            start -= 1
        simple = SIMPLE.match(text, start)
        if simple is not None:
            behind = simple.end()
            size = _simple(simple)
            if min(size.diameters) > 0:
                found[index] = size, bisect_left(starts, behind, index)
            continue
        run = RUN.match(text, start)
        if run is None or "m" not in run.group():
            continue
        behind = run.end()
        for size in _read(text, start, behind):
            found[bisect_left(starts, size.start)] = (size, bisect_left(starts, size.end))
    return found


def _simple(match: re.Match[str]) -> Size:
    first, second, third, unit = match.groups()
    factor = MULTIPLIERS[unit[0]]
    diameters = tuple(round(float(n.replace(",", ".")) * factor, 3) for n in (first, second, third) if n)
    return Size(diameters, match.start(), match.end())


def _may_begin(text: str, start: int) -> bool:
    """Not behind "1/", "1," or "1."; ".8" is a number."""
    before = text[start - 1 : start]
    if before in (".", ","):
        return not text[start - 2 : start - 1].isalnum() if start > 1 else True
    return before != "/"


@dataclass(slots=True)
class _Value:
    link: str
    number: float
    unit: str
    start: int
    end: int
    whole: bool
    axis: bool


def _read(text: str, start: int, end: int) -> list[Size]:
    values = [
        _Value(
            _kind(part.group(1)),
            float(part.group(2).replace(",", ".")),
            (part.group(3) or part.group(5) or "")[:1],
            part.start(2),
            part.end(),
            part.group(2).isdigit(),
            part.group(4) is not None,
        )
        for part in PART.finditer(text, start, end)
    ]
    while values and not values[-1].unit and values[-1].link != "x":
        values.pop()
    if not any(value.unit for value in values):
        return []
    if len(values) == 2 and values[1].link == "and" and text[max(0, start - 8) : start] == "between ":
        values[1].link = "-"
    if _is_reference(text, start):
        while not values[0].unit and not (len(values) > 1 and values[1].link == "x"):
            values.pop(0)
    lists = any(value.link == "and" for value in values)
    while not values[0].unit and values[1].link == "," and values[0].whole and not lists:
        values.pop(0)
    return _sizes(values)


def _is_reference(text: str, start: int) -> bool:
    return BEFORE_NO_SIZE.search(text, max(0, start - 12), start) is not None


def _kind(link: str | None) -> str:
    word = (link or "").strip(" \n\r\t")
    if word in ("x", "by", "*"):
        return "x"
    if word in ("→", "->"):
        return "→"
    if word in ("-", "to", "or"):
        return "-"
    return "," if word in (",", "") else "and"


def _sizes(values: list[_Value]) -> list[Size]:
    groups: list[list[_Value]] = []
    for value in values:
        if groups and value.link == "x" and len(groups[-1]) < 3:
            groups[-1].append(value)
        else:
            groups.append([value])
    sizes: list[Size] = []
    unit = ""
    for group in reversed(groups):
        diameters = []
        for value in reversed(group):
            unit = value.unit or unit or _only_unit(values)
            diameters.append(round(value.number * MULTIPLIERS[unit], 3))
        sizes.append(Size(tuple(reversed(diameters)), group[0].start, group[-1].end, axis=group[-1].axis))
    sizes.reverse()
    joined: list[Size] = []
    for size, group in zip(sizes, groups, strict=True):
        if joined and group[0].link == "→":
            joined[-1] = Size(size.diameters, joined[-1].start, size.end)
        elif joined and group[0].link == "-":
            last = joined[-1]
            larger = size if len(size.diameters) > 1 else max(size, last, key=lambda s: max(s.diameters))
            joined[-1] = Size(larger.diameters, last.start, size.end, upper=size.diameters)
        else:
            joined.append(size)
    return [size for size in joined if min(size.diameters) > 0]


def _only_unit(values: list[_Value]) -> str:
    return next(value.unit for value in values if value.unit)
