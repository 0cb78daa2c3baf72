# SPDX-License-Identifier: Apache-2.0
"""The scorer against counts made by hand."""

import pytest

from rsuper_train.reports.schema import Report, Tumour
from rsuper_train.reports.score import score

CYST = Tumour(
    organ="kidney", laterality="left", subsegments=("upper pole",), diameters=(24.0, 19.0), attenuation="hypo"
)


def _report(*tumours: Tumour) -> list[Report]:
    return [Report(id="1", tumours=tumours)]


@pytest.mark.parametrize(
    ("found", "triples", "attenuation"),
    [
        ((CYST,), (1, 0, 0), (1, 0, 0)),
        ((CYST.model_copy(update={"diameters": (19.0, 24.0)}),), (1, 0, 0), (1, 0, 0)),
        ((CYST.model_copy(update={"attenuation": "iso"}),), (1, 0, 0), (0, 1, 1)),
        ((CYST.model_copy(update={"attenuation": "unknown"}),), (1, 0, 0), (0, 0, 1)),
        ((CYST.model_copy(update={"laterality": "right"}),), (0, 1, 1), (0, 0, 0)),
        ((CYST.model_copy(update={"subsegments": ()}),), (0, 1, 1), (0, 0, 0)),
        ((CYST, CYST), (1, 1, 0), (1, 0, 0)),
        ((CYST, CYST.model_copy(update={"count_known": False})), (1, 0, 0), (1, 0, 0)),
        ((), (0, 0, 1), (0, 0, 0)),
    ],
)
def test_counts(found: tuple[Tumour, ...], triples: tuple[int, ...], attenuation: tuple[int, ...]) -> None:
    result = score(_report(CYST), _report(*found))
    assert (result.triples.hits, result.triples.extra, result.triples.missed) == triples
    assert (result.attenuation.hits, result.attenuation.extra, result.attenuation.missed) == attenuation


def test_f1() -> None:
    result = score(_report(CYST, CYST), _report(CYST))
    assert (result.triples.precision, result.triples.recall) == (1.0, 0.5)
    assert result.triples.f1 == pytest.approx(2 / 3)
    assert result.wrong == ["1"]


def test_other_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="same order"):
        score(_report(), [Report(id="2")])
