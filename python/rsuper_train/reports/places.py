# SPDX-License-Identifier: Apache-2.0
"""Lists of names and places in one cell of a table, and back, whatever the names hold.

    places      place ; place ; ...
    place       [left | right | bilateral] organ [, part / part / ...]
    names       name ; name ; ...

A backslash takes its meaning from the character behind it. It stands before `\\ ; , /` in names, before spaces at their
ends, and before the space of an organ that begins with a side ("left\\ atrium"); `\\-` is the empty name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import get_args

from rsuper_train.reports.schema import Laterality, Place

SIDES = get_args(Laterality)

_EMPTY = "\\-"
_SPECIAL = re.compile(r"[\\;,/]|^ | $")
_SIDE = re.compile(rf"({'|'.join(SIDES)}) ")


def join_names(names: Iterable[str]) -> str:
    """The names in one cell: "segment 5; segment 6"."""
    return "; ".join(map(_escaped, names))


def parse_names(cell: str) -> tuple[str, ...]:
    """The names of a cell, as `join_names` writes them."""
    return tuple(_plain(name) for name in _split(cell, ";") if name.strip(" "))


def join_places(places: Iterable[Place]) -> str:
    """The places in one cell: "spleen; left kidney; liver, segment 2 / segment 3"."""
    return "; ".join(map(format_place, places))


def format_place(place: Place) -> str:
    """One place in the words of the table: "left kidney, upper pole"."""
    organ = _escaped(place.organ)
    if place.laterality:
        organ = f"{place.laterality} {organ}"
    elif side := _SIDE.match(organ):
        organ = f"{side[1]}\\ {organ[side.end() :]}"
    parts = " / ".join(map(_escaped, place.subsegments))
    return f"{organ}, {parts}" if parts else organ


def parse_places(cell: str) -> tuple[Place, ...]:
    """The places of a cell, as `join_places` writes them.

    Raises:
        ValueError: a place without an organ.
    """
    return tuple(parse_place(place) for place in _split(cell, ";") if place.strip(" "))


def parse_place(text: str) -> Place:
    """The place that `format_place` writes so.

    Raises:
        ValueError: no organ, or more than one comma.
    """
    pieces = [piece.lstrip(" ") for piece in _split(text, ",")]
    if len(pieces) > 2 or not pieces[0]:
        raise ValueError(f"expected a place such as 'liver, segment 2 / segment 3', got {text!r}")
    side = _SIDE.match(pieces[0])
    return Place(
        organ=_plain(pieces[0][side.end() :] if side else pieces[0]),
        subsegments=tuple(_plain(part) for part in _split("".join(pieces[1:]), "/") if part.strip(" ")),
        laterality=side[1] if side else None,
    )


def _escaped(name: str) -> str:
    return _SPECIAL.sub(lambda match: "\\" + match[0], name) if name else _EMPTY


def _split(text: str, separator: str) -> list[str]:
    """Split at each separator that no backslash stands before."""
    pieces: list[list[str]] = [[]]
    for piece in re.split(rf"(\\.?|{separator})", text, flags=re.DOTALL):
        if piece == separator:
            pieces.append([])
        else:
            pieces[-1].append(piece)
    return ["".join(piece) for piece in pieces]


def _plain(text: str) -> str:
    """A name without its backslashes, and without the spaces around it that have none."""
    if text.strip(" ") == _EMPTY:
        return ""
    characters = re.findall(r"\\.?|[^\\]", text, re.DOTALL)
    start, end = 0, len(characters)
    while start < end and characters[start] == " ":
        start += 1
    while end > start and characters[end - 1] == " ":
        end -= 1
    return "".join(piece[1:] if piece[0] == "\\" else piece for piece in characters[start:end])
