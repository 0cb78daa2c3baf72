# SPDX-License-Identifier: Apache-2.0
"""Reads report sentences into records by rules: organ, side, diameters in mm, attenuation, count.

Scope: short English statements about liver, spleen and kidneys, one organ per sentence with a lesion. A sentence that
names no organ speaks about the organ of the sentence before. Anything else is passed over.
"""

from __future__ import annotations

import re

from rsuper_train.reports.records import Record

ORGAN = re.compile(r"\b(?:(left|right) )?(liver|hepatic|spleen|splenic|kidneys?|renal)\b")
ORGAN_NAMES = {"hepatic": "liver", "splenic": "spleen", "kidneys": "kidney", "renal": "kidney"}
ATTENUATION = {
    "hypo": re.compile(r"\bhypo-?(?:dense|density|attenuating)|\blow[- ](?:density|attenuation)"),
    "hyper": re.compile(r"\bhyper-?(?:dense|density|attenuating)|\bhigh[- ](?:density|attenuation)"),
    "iso": re.compile(r"\biso-?(?:dense|attenuating)"),
    "mixed": re.compile(r"\bheterogene?ous|\bmixed[- ](?:density|attenuation)"),
}
LESION = r"(?:lesion|mass|nodule|tumou?r|cyst|metastas[ie]s)(?:e?s)?\b"
NOTHING = re.compile(rf"\b(?:no|without)\b[^.;:]*?\b{LESION}|\bunremarkable\b|\bnormal\b(?! in size)")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
MANY = ("multiple", "several", "numerous", "innumerable")
COUNT = re.compile(rf"(?<![\d.])\b({'|'.join(NUMBERS[1:] + MANY)}|\d+)(?! [cm]m) (?:[a-z-]+ ){{0,3}}{LESION}")
SIZE = re.compile(r"(?<![\d.x])\d+(?:\.\d+)?(?: ?[cm]m)?(?:x\d+(?:\.\d+)?(?: ?[cm]m)?){0,2}\b")
SIZE_PART = re.compile(r"(\d+(?:\.\d+)?) ?([cm]m)?")


def read_report(text: str) -> list[Record]:
    """Read all statements about lesions, in the order of the text."""
    records: list[Record] = []
    places: list[tuple[str, str | None]] = []
    for sentence in re.split(r"(?<=[.;])\s+|\n+", text):
        sentence = _normalise(sentence)
        places = _places(sentence) or places
        if places:
            records += _read_sentence(sentence, places)
    return records


def _normalise(sentence: str) -> str:
    """Lower case, single spaces, "x" between measures, units as mm and cm, decimal points."""
    sentence = " ".join(sentence.lower().split())
    sentence = re.sub(r"\b(\d+),(\d+)(?= ?[cmx×])", r"\1.\2", sentence)
    sentence = re.sub(r"\b(c|m)(?:enti|illi)met(?:er|re)s?\b", r"\1m", sentence)
    return re.sub(r"(?<=[\dm])\s*(?:x|×|by)\s*(?=\d)", "x", sentence)


def _places(sentence: str) -> list[tuple[str, str | None]]:
    """Organs named, as (organ, side); "Kidneys: ... left kidney" is the left kidney alone."""
    named = [(ORGAN_NAMES.get(organ, organ), side or None) for side, organ in ORGAN.findall(sentence)]
    sided = {organ for organ, side in named if side}
    return list(dict.fromkeys(place for place in named if place[1] or place[0] not in sided))


def _read_sentence(sentence: str, places: list[tuple[str, str | None]]) -> list[Record]:
    """Records of one normalised sentence about `places`."""
    sizes = [match for match in SIZE.finditer(sentence) if match.group().endswith("m")]
    nothing = NOTHING.search(sentence)
    if nothing and (not sizes or nothing.end() < sizes[0].start()):
        return [Record(organ, side, count=0) for organ, side in places]
    if not re.search(rf"\b{LESION}", sentence):
        return []
    organ, side = places[0]
    attenuation = next((name for name, words in ATTENUATION.items() if words.search(sentence)), "unknown")
    records = [Record(organ, side, _millimetres(size.group()), attenuation) for size in sizes]
    count = _count(sentence)
    unsized = None if count is None else count - len(sizes)
    if unsized is None or unsized > 0:
        records.append(Record(organ, side, (), attenuation, unsized))
    return records


def _count(sentence: str) -> int | None:
    """Number of lesions a sentence speaks about; None for "multiple", 1 where it does not say."""
    without_sizes = SIZE.sub(lambda size: "" if size.group().endswith("m") else size.group(), sentence)
    found = COUNT.search(" ".join(without_sizes.split()))
    if not found:
        return 1
    word = found.group(1)
    if word in MANY:
        return None
    return NUMBERS.index(word) if word in NUMBERS else int(word)


def _millimetres(size: str) -> tuple[float, ...]:
    """ "2.4x1.9 cm" as (24.0, 19.0); a number without a unit takes that of the numbers after it."""
    parts = SIZE_PART.findall(size)
    unit = parts[-1][1]
    return tuple(round(float(number) * (10 if (own or unit) == "cm" else 1), 3) for number, own in parts)
