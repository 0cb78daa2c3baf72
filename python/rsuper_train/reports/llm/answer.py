# SPDX-License-Identifier: Apache-2.0
"""The model's answer: its JSON schema, its validation against the vocabulary, and its conversion to a Report."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from rsuper_kernels.findings import LARGEST_DIAMETER
from rsuper_train.reports.llm.quotes import Text
from rsuper_train.reports.schema import Laterality, Place, Report, Tumour, hash_text
from rsuper_train.reports.vocabulary import Organ, Vocabulary

LARGEST_COUNT = 50
LONGEST_TYPE = 80
UNKNOWN = "unknown"

_COUNT_WORDS = {"one": 1, "a": 1, "two": 2, "both": 2, "three": 3, "four": 4, "five": 5, "several": "multiple"}
_PROBLEMS_SHOWN = 20


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _word_or_none(value: Any) -> Any:
    return "none" if value is None or value == "" else _word(value)


def _count(value: Any) -> Any:
    word = _word(value)
    return int(word) if isinstance(word, str) and word.isdecimal() else _COUNT_WORDS.get(word, word)


class _Part(BaseModel):
    # strange keys are ignored: named in an error, they would carry words of the report into flags
    model_config = ConfigDict(extra="ignore", frozen=True)

    organ: Annotated[str, BeforeValidator(_word)]
    laterality: Annotated[Literal["left", "right", "bilateral", "none"], BeforeValidator(_word_or_none)]
    subsegments: tuple[Annotated[str, BeforeValidator(_word)], ...]

    @property
    def _vocabulary_side(self) -> Laterality | None:
        return None if self.laterality == "none" else self.laterality

    def place(self, vocabulary: Vocabulary) -> Place:
        """The place in the vocabulary's names.

        Raises:
            PydanticCustomError: an organ, or a part of it, that the vocabulary does not have.
        """
        name = _find_organ(self.organ, vocabulary)
        if name == UNKNOWN:
            return Place(organ=UNKNOWN)
        organ = vocabulary.organs[name]
        side = self._vocabulary_side if organ.paired else None
        return Place(organ=name, laterality=side, subsegments=_find_parts(self.subsegments, name, organ))


class Negative(_Part):
    """A place that is said to be free of lesions."""


class Row(_Part):
    """One lesion, or several that are alike; see prompt.md for the meaning of the fields."""

    quote: str
    diameters: tuple[float, ...]
    unit: Annotated[Literal["mm", "cm", "none"], BeforeValidator(_word_or_none)]
    attenuation: Annotated[Literal["hypo", "iso", "hyper", "mixed", "unknown"], BeforeValidator(_word)]
    type: Annotated[str, BeforeValidator(_word)]
    certainty: Annotated[Literal["certain", "high", "low"], BeforeValidator(_word)]
    count: Annotated[int | Literal["multiple"], BeforeValidator(_count)]

    @property
    def millimetres(self) -> tuple[float, ...]:
        return tuple(round(value * 10, 6) if self.unit == "cm" else value for value in self.diameters)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Row:
        vocabulary = info.context
        assert isinstance(vocabulary, Vocabulary), "answers are validated by parse_answer"
        self.place(vocabulary)
        if not self.quote.strip():
            raise PydanticCustomError("empty quote", "quote: expected the sentence of the report, got nothing")
        if len(self.type) > LONGEST_TYPE:
            raise PydanticCustomError("long type", "type: expected a name of a few words")
        if len(self.diameters) > 3:
            raise PydanticCustomError("more than three diameters", "diameters: expected at most three for one lesion")
        if self.diameters and self.unit == "none":
            raise PydanticCustomError("no unit", 'unit: expected "mm" or "cm", since there are diameters')
        if any(not 0 < value <= LARGEST_DIAMETER for value in self.millimetres):
            raise PydanticCustomError(
                "impossible diameter",
                f"diameters: expected more than 0 and at most {LARGEST_DIAMETER:.0f} mm; look at number and unit",
            )
        if isinstance(self.count, int) and not 1 <= self.count <= LARGEST_COUNT:
            raise PydanticCustomError(
                "impossible count", f'count: expected 1 to {LARGEST_COUNT}, or "multiple" for more'
            )
        return self


class Answer(BaseModel):
    """All that the model says about a report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rows: tuple[Row, ...]
    negatives: tuple[Negative, ...]


class InvalidAnswer(ValueError):
    """An answer that cannot be used.

    Attributes:
        reason: what is wrong, free of the answer's words, for flags.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def answer_schema(vocabulary: Vocabulary) -> dict[str, Any]:
    """JSON schema of an answer, in the subset that "strict" structured output takes: all fields required, no bounds."""
    parts = dict.fromkeys(part for organ in vocabulary.organs.values() for part in organ.subsegments)

    def place(*more_organs: str) -> dict[str, Any]:
        return {
            "organ": {"type": "string", "enum": [*vocabulary.organs, *more_organs]},
            "laterality": {"type": "string", "enum": ["left", "right", "bilateral", "none"]},
            "subsegments": {"type": "array", "items": {"type": "string", "enum": [*parts]}},
        }

    row = {
        "quote": {"type": "string"},
        **place(UNKNOWN),
        "diameters": {"type": "array", "items": {"type": "number"}},
        "unit": {"type": "string", "enum": ["mm", "cm", "none"]},
        "attenuation": {"type": "string", "enum": ["hypo", "iso", "hyper", "mixed", "unknown"]},
        "type": {"type": "string"},
        "certainty": {"type": "string", "enum": ["certain", "high", "low"]},
        "count": {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["multiple"]}]},
    }
    return _object(
        {
            "rows": {"type": "array", "items": _object(row)},
            "negatives": {"type": "array", "items": _object(place())},
        }
    )


def parse_answer(content: str, vocabulary: Vocabulary) -> Answer:
    """The answer in a model's message; words around the JSON object, as of reasoning models, are passed over.

    Raises:
        InvalidAnswer: its text is for the model, its `reason` for people.
    """
    content = content.rpartition("</think>")[2]
    first, last = content.find("{"), content.rfind("}")
    if last < first or first < 0:
        raise InvalidAnswer("expected one JSON object and nothing else", "no JSON object")
    try:
        return Answer.model_validate_json(content[first : last + 1], context=vocabulary)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)[:_PROBLEMS_SHOWN]
        message = "\n".join(f"- {_path(problem['loc'])}: {problem['msg']}" for problem in problems)
        reason = f"{_path(problems[0]['loc'])}: {problems[0]['type']}".replace("_", " ")
        raise InvalidAnswer(message, reason) from None


def to_report(answer: Answer, id: str, text: str, vocabulary: Vocabulary, extractor: str) -> Report:
    """The answer as a Report: quotes located, millimetres, one row per counted lesion.

    A row whose quote or size is not in the text is kept, and the report flagged.
    """
    haystack = Text(text)
    flags: list[str] = []
    tumours: list[Tumour] = []
    for row in answer.rows:
        span = haystack.find(row.quote)
        if span is None:
            flags.append("quote not found in the report")
        if not haystack.has_sizes(row.millimetres):
            flags.append("size not found in the report")
        start, end = span or (0, 0)
        tumour = Tumour(
            **row.place(vocabulary).model_dump(),
            diameters=row.millimetres,
            attenuation=row.attenuation,
            type=row.type or "lesion",
            certainty=row.certainty,
            sentence=text[start:end],
            start=start,
            end=end,
        )
        tumours.extend(_counted(tumour, row.count))
    return Report(
        id=id,
        tumours=tuple(sorted(tumours, key=lambda tumour: tumour.start)),
        negatives=_negatives(answer.negatives, tumours, vocabulary),
        flags=tuple(flags),
        extractor=extractor,
        text_hash=hash_text(text),
    )


def _counted(tumour: Tumour, count: int | str) -> Iterable[Tumour]:
    if isinstance(count, int):
        return [tumour] * count
    uncounted = tumour.model_copy(update={"diameters": (), "count_known": False})
    return [tumour, uncounted] if tumour.diameters else [uncounted]


def _negatives(negatives: Iterable[Negative], tumours: list[Tumour], vocabulary: Vocabulary) -> tuple[Place, ...]:
    """Places of the vocabulary that no row is in, each once."""
    places: dict[Place, None] = {}
    for negative in negatives:
        try:
            place = negative.place(vocabulary)
        except PydanticCustomError:
            continue  # "no enlarged lymph nodes" is true, and not about an organ of the table
        if place.organ != UNKNOWN and not any(place.may_touch(tumour) for tumour in tumours):
            places[place] = None
    return tuple(places)


def _find_organ(word: str, vocabulary: Vocabulary) -> str:
    if word in vocabulary.organs or word == UNKNOWN:
        return word
    found = next((name for name, organ in vocabulary.organs.items() if word in organ.names), None)
    if found is None:
        raise PydanticCustomError(
            "organ not in the vocabulary",
            "organ: got {word}, expected one of {organs}; a lesion of anything else is not a row,"
            " and 'unknown' is for a lesion of which the report names no organ",
            {"word": repr(word), "organs": ", ".join(vocabulary.organs)},
        )
    return found


def _find_parts(words: Iterable[str], name: str, organ: Organ) -> tuple[str, ...]:
    """The organ's parts in the order of the vocabulary."""
    found: set[str] = set()
    for word in words:
        parts = organ.parts_named(word)
        if not parts:
            raise PydanticCustomError(
                "not a part of the organ",
                "subsegments: got {word}, expected parts of {organ}: {parts}",
                {"word": repr(word), "organ": name, "parts": ", ".join(organ.subsegments) or "none, so []"},
            )
        found.update(parts)
    return tuple(part for part in organ.subsegments if part in found)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _path(loc: tuple[int | str, ...]) -> str:
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, loc))) or "answer"
