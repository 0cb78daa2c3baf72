# SPDX-License-Identifier: Apache-2.0
"""Sentences of a report and the headings they stand under; which headings speak of the present examination."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rsuper_train.reports.rules.concepts import (
    AND,
    COMMA,
    DEFINITE,
    ELSEWHERE,
    FINDING,
    LESION,
    ORGAN,
    PART,
    SECTION,
    SECTION_IMPRESSION,
    SECTION_PAST,
    SIDE,
    SLASH,
    VERB,
    Phrases,
)
from rsuper_train.reports.rules.scan import Item, kinds_of, scan
from rsuper_train.reports.rules.tokens import Tokens

TITLES = frozenset(("dr", "drs", "mr", "mrs", "ms", "prof", "fig", "e", "g", "i", "eg", "ie", "st", "vs", "al"))
# No end of a sentence where a small letter or a digit follows.
ABBREVIATIONS = frozenset((
    "approx", "cf", "ca", "resp", "incl", "ser", "im", "img", "pt", "neg", "prev", "seg", "segs", "pulm", "abd",
    "max", "min",
))  # fmt: skip
# A line that ends in one of these goes on in the next line.
OPEN_ENDS = frozenset((
    "a", "an", "the", "of", "in", "on", "at", "to", "and", "or", "with", "without", "no", "is", "are", "was", "were",
    "measuring", "measures", "by", "for", "from", "this", "that", "which", "than", "approximately", "about", "up",
    "segment", "left", "right", "both", "into", "within", "adjacent", "largest",
))  # fmt: skip
TECHNICAL = frozenset((
    "technique", "comparison", "comparisons", "exam", "examination", "procedure", "study", "protocol", "contrast",
    "dose", "tech", "comp", "dlp",
))  # fmt: skip
# A line with one of these states something, and is no title.
STATES = frozenset(
    ("is", "are", "was", "were", "has", "show", "shows", "demonstrates", "reveals", "there", "seen", "no")
)
EXAMINATIONS = frozenset((
    "ct", "cect", "mri", "mr", "pet", "tomography", "ultrasound", "scan", "template", "worksheet", "report",
))  # fmt: skip
PLACE_NAMES = ORGAN | PART | ELSEWHERE | FINDING | AND | COMMA | SLASH | SIDE
SHORT_LINE = 45
LONGEST = 300
HEADING_WORDS = 7


@dataclass(slots=True)
class Sentence:
    """Words first..last (inclusive) of the tokens.

    Args:
        section: "past" (history, technique, ...), "impression", or "current".
        heading: items of the heading it stands under, [] for none.
        paragraph: number of its paragraph.
        body: first word behind its own heading.
    """

    first: int
    last: int
    body: int
    section: str
    heading: list[Item]
    paragraph: int


def split(tokens: Tokens, phrases: Phrases) -> Iterator[Sentence]:
    """The sentences of a report in order; headings of sections are no sentences."""
    section, paragraph = "current", 0
    heading: list[Item] = []
    spoken = False
    technical = False  # a past section about the examination, which a new line may end
    for first, last, blank in _spans(tokens):
        start = first
        opening = first == 0
        if (
            section == "past"
            and spoken
            and _begins_line(tokens, first)
            and (technical or _speaks_of_organ(tokens, phrases, first))
        ):
            section = "current"
        if blank:
            paragraph += 1
            heading = []
            if section == "past" and spoken:
                section = "current"
        while (colon := _colon(tokens, start, last)) is not None:
            items = scan(tokens, phrases, start, colon, None)
            kinds = kinds_of(items)
            if kinds & SECTION and not kinds & LESION:
                section, spoken, heading = _section(kinds), False, _places(items)
                technical = tokens.words[start] in TECHNICAL
                paragraph += 1
                start = colon + 1
                first = start
            elif kinds & (ORGAN | PART | ELSEWHERE | FINDING) and not kinds & LESION and _is_place(items, start, colon):
                heading, start = items, colon + 1
                section = "current" if section == "past" else section
                break
            elif _is_title(tokens, start, colon):
                if section == "past" and (not kinds or (start == colon and not kinds & LESION)):
                    section = "current"
                heading, start, first = [], colon + 1, colon + 1
            else:
                break
        if start > last or (opening and _is_title_line(tokens, last)):
            continue
        if last - start < 4 and (items := _lone_heading(tokens, phrases, start, last)):
            kinds = kinds_of(items)
            if kinds & SECTION:
                section, spoken, heading = _section(kinds), False, _places(items)
                technical = tokens.words[start] in TECHNICAL
                paragraph += 1
            else:
                heading = items
                section = "current" if section == "past" else section
            continue
        spoken = True
        yield Sentence(first, last, start, section, heading, paragraph)


def _begins_line(tokens: Tokens, first: int) -> bool:
    return first > 0 and "n" in tokens.gaps[first - 1]


def _speaks_of_organ(tokens: Tokens, phrases: Phrases, first: int) -> bool:
    """ "Liver 16.4 cm, ...", "The liver is ...": no more of the history."""
    items = scan(tokens, phrases, first, min(first + 3, len(tokens.words) - 1), None)
    names = [item for item in items if not item.kinds & DEFINITE]
    return bool(names) and bool(names[0].kinds & (ORGAN | VERB)) and not any(item.kinds & LESION for item in items)


def _section(kinds: int) -> str:
    if kinds & SECTION_IMPRESSION:
        return "impression"
    return "past" if kinds & SECTION_PAST else "current"


def _places(items: list[Item]) -> list[Item]:
    return [item for item in items if item.kinds & (ORGAN | ELSEWHERE)]


def _is_place(items: list[Item], first: int, last: int) -> bool:
    """Most words of the heading are of places."""
    known = sum(item.end - item.start for item in items)
    return known * 2 >= last - first + 1


def _colon(tokens: Tokens, first: int, last: int) -> int | None:
    """The word before a colon (or a dash) near the start of a sentence."""
    gaps = tokens.gaps
    for index in range(first, min(first + HEADING_WORDS, last + 1)):
        gap = gaps[index]
        if gap:
            if ":" in gap or gap == "=":
                return index
            if gap[0] in ".;,()" and gap != ",":
                return None
    return None


def _is_title(tokens: Tokens, first: int, last: int) -> bool:
    text = tokens.text[tokens.starts[first] : tokens.ends[last]]
    return text.isupper() and ":" in tokens.gaps[last]


def _is_title_line(tokens: Tokens, last: int) -> bool:
    """The first line names the examination: "CT ABDOMEN AND PELVIS WITH CONTRAST"."""
    gap = tokens.gaps[last]
    line = tokens.lowered[: tokens.ends[last]]
    words = tokens.words[: last + 1]
    if "mm" in line or "cm" in line or not STATES.isdisjoint(words):
        return False
    if words[0] in EXAMINATIONS:
        return ("." in gap and ":" not in line and last + 1 < len(tokens.words)) or "n" in gap or "P" in gap
    return "." not in gap and ("n" in gap or "P" in gap) and not EXAMINATIONS.isdisjoint(words)


def _lone_heading(tokens: Tokens, phrases: Phrases, first: int, last: int) -> list[Item]:
    """Items of a line that is a heading alone ("FINDINGS", "Liver"); [] for anything else."""
    if not set(tokens.gaps[last]) & set("nP:") or "." in tokens.gaps[last]:
        return []
    items = scan(tokens, phrases, first, last, None)
    known = sum(item.end - item.start for item in items)
    kinds = kinds_of(items)
    if known != last - first + 1 or kinds & LESION or not kinds & (SECTION | ORGAN | ELSEWHERE):
        return []
    return items if kinds & SECTION or all(item.kinds & PLACE_NAMES for item in items) else []


def _spans(tokens: Tokens) -> Iterator[tuple[int, int, bool]]:
    """(first word, last word, behind an empty line) of each sentence."""
    words, gaps = tokens.words, tokens.gaps
    first, blank = 0, False
    line = 0
    count = len(words)
    hard = [index for index, gap in enumerate(gaps) if gap and ("." in gap or "n" in gap or "P" in gap or "*" in gap)]
    for index in hard:
        gap = gaps[index]
        while index - first > LONGEST:
            yield first, first + LONGEST - 1, blank
            first, blank = first + LONGEST, False
        ends = "P" in gap
        if not ends and "n" in gap:
            ends = _ends_line(tokens, index, line)
        if not ends and "." in gap:
            ends = _ends_sentence(tokens, first, index)
        if "n" in gap or "P" in gap:
            line = index + 1
        if not ends:
            if "." in gap and index == first and words[index].isdigit() and _blank_behind(tokens, index):
                first = index + 1
            continue
        lone_number = index == first and words[index].isdigit() and "." not in gap[1:]
        if index >= first and (words[index] or index > first) and not lone_number:
            yield (first if words[first] else first + 1), index, blank
            blank = False
        blank = blank or "P" in gap
        first = index + 1
    if first < count and words[first]:
        yield first, count - 1, blank


def _blank_behind(tokens: Tokens, index: int) -> bool:
    end = tokens.ends[index]
    return tokens.text[end + 1 : end + 2].isspace()


def _ends_sentence(tokens: Tokens, first: int, index: int) -> bool:
    """Whether the full stop behind this word ends the sentence."""
    word = tokens.words[index]
    if index + 1 >= len(tokens.words) or not tokens.words[index + 1]:
        return True
    behind = tokens.starts[index + 1]
    gap = tokens.text[tokens.ends[index] : behind]
    following = tokens.text[behind]
    if word in TITLES or (word in ABBREVIATIONS and not following.isupper()):
        return False
    if len(gap) == 1:
        return (
            len(word) > 1 and word.isalpha() and following.isupper() and tokens.text[behind + 1 : behind + 2].islower()
        )
    if index == first and word.isdigit():
        return False
    if gap[0].isspace():
        # " .8 cm"
        return not following.isdigit() or gap[-1].isspace()
    return True


def _ends_line(tokens: Tokens, index: int, line: int) -> bool:
    """Whether the end of a line ends the sentence too, and is not just wrapped prose."""
    gap = tokens.gaps[index]
    if index + 1 >= len(tokens.words) or not tokens.words[index + 1]:
        return True
    if gap not in ("n", "-n"):
        return gap[0] not in ",(/" or "*" in gap
    if tokens.words[index] in OPEN_ENDS:
        return False
    behind = tokens.starts[index + 1]
    following = tokens.text[behind]
    if "-" in gap:
        return True
    length = tokens.ends[index] - tokens.starts[line]
    if following.isupper():
        return True
    if following.isdigit() and (
        tokens.text[tokens.ends[index + 1] : tokens.ends[index + 1] + 2] in (". ", ") ")
        and len(tokens.words[index + 1]) < 3
    ):
        return True
    colon = _colon(tokens, index + 1, min(index + 4, len(tokens.words) - 1))
    return colon is not None or length < SHORT_LINE
