# SPDX-License-Identifier: Apache-2.0
"""Writes radiology-style sentences from records, with varied wording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsuper_train.reports.records import Record, place_of

PLACES = ("liver", "spleen", "right kidney", "left kidney")
ADJECTIVES = {
    "hypo": ("hypodense", "hypoattenuating", "low-attenuation"),
    "hyper": ("hyperdense", "hyperattenuating", "high-attenuation"),
    "iso": ("isodense", "isoattenuating"),
    "mixed": ("heterogeneous", "mixed-attenuation"),
    "unknown": ("",),
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
NEGATIVES = (
    "{Place}: unremarkable.",
    "{Place}: no focal lesion.",
    "No focal lesion in the {place}.",
    "The {place} is unremarkable.",
    "The {place} is normal in appearance, without focal lesion.",
)
ONE = (
    "{Place}: {size} {adjective} lesion.",
    "{A} {adjective} lesion in the {place} measuring {size}.",
    "There is a {size} {adjective} lesion in the {place}.",
    "The {place} shows {a} {adjective} mass of {size}.",
    "{Place}: {adjective} lesion, {size}.",
)
SEVERAL = (
    "{Number} {adjective} lesions in the {place} measuring {sizes}.",
    "{Place}: {number} {adjective} lesions, measuring {sizes}.",
    "There are {number} {adjective} masses in the {place}, {sizes}.",
)


def write_report(records: Sequence[Record], rng: np.random.Generator, places: Sequence[str] = PLACES) -> str:
    """Sentences for each of `places`, in random order; places without a record are reported free of lesions."""
    sentences = []
    for place in rng.permutation(places):
        organ, side = place_of(str(place))
        here = [r for r in records if (r.organ, r.side) == (organ, side) and not r.negative]
        sentences += _write_place(str(place), here, rng)
    return " ".join(sentences)


def _write_place(place: str, records: list[Record], rng: np.random.Generator) -> list[str]:
    """Sentences about one place: a negative, one sentence for several alike lesions, or one each."""
    if not records:
        return [_fill(_pick(NEGATIVES, rng), place=place)]
    alike = len({r.attenuation for r in records}) == 1
    if len(records) > 1 and alike and rng.random() < 0.6:
        sizes = [_size(r.diameters, rng) for r in records]
        listed = ", ".join(sizes[:-1]) + " and " + sizes[-1]
        adjective = _pick(ADJECTIVES[records[0].attenuation], rng)
        return [_fill(_pick(SEVERAL, rng), place, adjective, number=NUMBERS[len(records)], sizes=listed)]
    return [
        _fill(_pick(ONE, rng), place, _pick(ADJECTIVES[r.attenuation], rng), size=_size(r.diameters, rng))
        for r in records
    ]


def _size(diameters: tuple[float, ...], rng: np.random.Generator) -> str:
    """Diameters (whole mm) as a radiologist writes them: "18 mm", "2.4 x 1.9 cm", "24 mm by 19 mm"."""
    if rng.random() < 0.5:
        numbers, unit = [f"{d / 10:.1f}" for d in diameters], "cm"
    else:
        numbers, unit = [f"{d:.0f}" for d in diameters], "mm"
    cross = _pick((" x ", " × ", " by ", "x"), rng)
    if rng.random() < 0.2:
        return cross.join(f"{n} {unit}" for n in numbers)
    return f"{cross.join(numbers)} {unit}"


def _fill(template: str, place: str, adjective: str = "", **words: str) -> str:
    """Put the words into the template, with capitals and articles."""
    article = "an" if (adjective or "lesion")[0] in "aeiou" else "a"
    words |= {key.capitalize(): value.capitalize() for key, value in words.items()}
    text = template.format(
        place=place, Place=place.capitalize(), adjective=adjective, a=article, A=article.capitalize(), **words
    )
    return " ".join(text.split())


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
