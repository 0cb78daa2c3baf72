# SPDX-License-Identifier: Apache-2.0
"""The model's answer: validation, places, quotes, conversion."""

from __future__ import annotations

import pytest

from rsuper_train.reports.llm.answer import Answer, InvalidAnswer, Row, answer_schema, parse_answer, to_report
from rsuper_train.reports.llm.quotes import Text
from rsuper_train.reports.schema import Place, Report, Tumour, hash_text
from tests.train.reports.llm_cases import (
    NONE,
    SENTENCE,
    TEXT,
    VOCABULARY,
    answer,
    negative,
    row,
)


def read(content: str, text: str = TEXT) -> Report:
    return to_report(parse_answer(content, VOCABULARY), "case 1", text, VOCABULARY, "llm:m")


def test_a_good_answer_becomes_a_report():
    report = read(answer(row(), negatives=(negative("kidney"), negative("liver"))))
    start = TEXT.index(SENTENCE)
    expected = Tumour(
        organ="liver",
        subsegments=("segment 5",),
        diameters=(12,),
        attenuation="hypo",
        certainty="certain",
        sentence=SENTENCE,
        start=start,
        end=start + len(SENTENCE),
    )
    assert report.tumours == (expected,)
    assert report.negatives == (Place(organ="kidney"),), "the liver has a lesion"
    assert (report.flags, report.text_hash) == ((), hash_text(TEXT))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"diameters": [1.2], "unit": "cm"}, [((12.0,), True)]),
        ({"count": 3}, [((12.0,), True)] * 3),
        ({"count": "2"}, [((12.0,), True)] * 2),
        ({"count": "multiple", "diameters": [], "unit": "none"}, [((), False)]),
        ({"count": "multiple"}, [((12.0,), True), ((), False)]),
    ],
)
def test_sizes_and_counts(changes, expected):
    assert [(tumour.diameters, tumour.count_known) for tumour in read(answer(row(**changes))).tumours] == expected


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"organ": "hepatic", "subsegments": ["left lobe"]}, "liver, segment 2 / segment 3 / segment 4"),
        ({"subsegments": ["segment 6", "caudate"]}, "liver, segment 1 / segment 6"),
        ({"laterality": "left", "subsegments": []}, "liver"),
        ({"organ": "Kidney", "laterality": "left", "subsegments": ["superior pole"]}, "left kidney, upper pole"),
        ({"organ": "rectum", "laterality": None, "subsegments": []}, "colon"),
        ({"organ": "unknown", "laterality": "left"}, "unknown"),
    ],
)
def test_places_get_the_names_of_the_vocabulary(changes, place):
    (tumour,) = read(answer(row(**changes))).tumours
    assert str(Place(**tumour.model_dump(include={"organ", "subsegments", "laterality"}))) == place


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no braces", "no JSON object"),
        ("} {", "no JSON object"),
        ('{"rows": [', "no JSON object"),
        ('{"rows": [}', "answer: json invalid"),
        ('{"rows": []}', "negatives: missing"),
        (answer({"quote": "x", "SECRET": 1}), "rows[0].organ: missing"),
        (answer(row(organ="SECRET")), "rows[0]: organ not in the vocabulary"),
        (answer(row(subsegments=["SECRET"])), "rows[0]: not a part of the organ"),
        (answer(row(laterality="SECRET")), "rows[0].laterality: literal error"),
        (answer(row(quote=" ")), "rows[0]: empty quote"),
        (answer(row(diameters=[5000])), "rows[0]: impossible diameter"),
        (answer(row(diameters=[51], unit="cm")), "rows[0]: impossible diameter"),
        (answer(row(diameters=[0])), "rows[0]: impossible diameter"),
        (answer(row(unit="none")), "rows[0]: no unit"),
        (answer(row(type="SECRET " * 20)), "rows[0]: long type"),
        (answer(row(diameters=[1, 2, 3, 4])), "rows[0]: more than three diameters"),
        (answer(row(count=0)), "rows[0]: impossible count"),
        (answer(row(count=10**9)), "rows[0]: impossible count"),
        (answer(row(diameters=[float("nan")])), "rows[0]: impossible diameter"),
    ],
)
def test_an_invalid_answer_is_named_without_its_words(content, reason):
    with pytest.raises(InvalidAnswer) as caught:
        parse_answer(content, VOCABULARY)
    assert caught.value.reason == reason


@pytest.mark.parametrize("wrap", ["```json\n%s\n```", "<think>{not this}</think>\n%s", "Here it is: %s Done."])
def test_words_around_the_object_are_passed_over(wrap):
    assert parse_answer(wrap % NONE, VOCABULARY).rows == ()


@pytest.mark.parametrize(
    ("text", "quote", "found"),
    [
        ("a b\n  c. d", "b c.", "b\n  c."),
        ("One CYST here", "one cyst", "One CYST"),
        ("a 2 × 3 mm “cyst” – new", '2 x 3 mm "cyst" - new', "2 × 3 mm “cyst” – new"),
        ("İ then a cyst", "A cyst.", "a cyst"),
        ("a cyst", "a mass", None),
        ("a cyst", " .. ", None),
        ("", "x", None),
    ],
)
def test_quotes_are_found_as_written(text, quote, found):
    span = Text(text).find(quote)
    assert (None if span is None else text[slice(*span)]) == found


def test_what_is_not_in_the_report_is_flagged_and_kept():
    report = read(answer(row(quote="A large mass.", diameters=[77]), row()))
    assert report.flags == ("quote not found in the report", "size not found in the report")
    assert [tumour.diameters for tumour in report.tumours] == [(77,), (12,)]
    assert all(TEXT[tumour.start : tumour.end] == tumour.sentence for tumour in report.tumours)


def test_negatives_of_other_sides_stay_and_of_other_anatomy_go():
    kidney = row(organ="kidney", laterality="left", subsegments=[])
    places = (negative("kidney", "right"), negative("kidney"), negative("lymph node"), negative("spleen"))
    report = read(answer(kidney, negatives=(*places, negative("spleen"))))
    assert [str(place) for place in report.negatives] == ["right kidney", "spleen"]


def test_the_schema_is_strict_and_has_the_fields_of_the_answer():
    schema = answer_schema(VOCABULARY)
    rows = schema["properties"]["rows"]["items"]
    assert set(schema["properties"]) == set(Answer.model_fields)
    assert set(rows["properties"]) == set(Row.model_fields) == set(rows["required"])
    assert rows["additionalProperties"] is schema["additionalProperties"] is False
    assert rows["properties"]["organ"]["enum"] == [*VOCABULARY.organs, "unknown"]
