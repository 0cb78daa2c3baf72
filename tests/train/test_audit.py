# SPDX-License-Identifier: Apache-2.0
"""The audit: made-up predictions that agree with a report, or disagree in one way each."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rsuper_train.audit import run_audit, write_lists
from rsuper_train.audit_page import write_page
from rsuper_train.cli import app
from rsuper_train.predict import Predictor
from rsuper_train.prepare import prepare
from rsuper_train.read import Options
from rsuper_train.reports.masks import load_label_set
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.table import write_table
from tests.train.prepared import IDS, FakePredictor, PreparedCase, ball, write_prepared
from tests.train.test_predict import GRIDS, box, make_run, write_case

SHAPE = (40, 56, 96)
CENTRE = (20, 28, 24)
CHANNELS = ("liver_lesion", "kidney_lesion")
LIVER, KIDNEY = 0, 1
TUMOUR = Tumour(
    organ="liver", subsegments=("segment 5",), diameters=(14.0,), attenuation="hypo", sentence="A dark <14 mm> lesion."
)


def case() -> PreparedCase:
    """Segment 5 and, apart from it, segment 2 of a liver, and a kidney; a dark tumour in segment 5."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:36, 8:48, 8:40] = IDS["liver_segment_5"]
    labels[4:36, 8:48, 60:76] = IDS["liver_segment_2"]
    labels[4:36, 8:48, 80:92] = IDS["kidney_left"]
    ct = np.random.default_rng(0).normal(100, 10, SHAPE)
    ct[ball(SHAPE, CENTRE, 7)] = 50
    return PreparedCase(ct, labels)


def report(id: str, *tumours: Tumour, negatives: tuple[str, ...] = ("kidney",)) -> Report:
    return Report(id=id, tumours=tumours, negatives=tuple(Place(organ=name) for name in negatives))


def predicted(channel: int = LIVER, *balls: tuple[tuple[int, int, int], float]) -> np.ndarray:
    found = np.zeros((len(CHANNELS), *SHAPE), np.float32)
    for centre, radius in balls:
        found[channel][ball(SHAPE, centre, radius)] = 0.97
    return found


PREDICTIONS = {
    "right": predicted(LIVER, (CENTRE, 7)),
    "missed": predicted(),
    "other place": predicted(LIVER, ((20, 28, 68), 7)),
    "small": predicted(LIVER, (CENTRE, 3)),
    "three": predicted(LIVER, (CENTRE, 7), ((10, 14, 12), 4), ((30, 42, 34), 4)),
    "bright": predicted(LIVER, (CENTRE, 7)),
    "kidney": predicted(LIVER, (CENTRE, 7)) + predicted(KIDNEY, ((20, 28, 86), 5)),
}


def fake(predictions: dict[str, np.ndarray], calls: list[str] | None = None, key: str = "network") -> FakePredictor:
    return FakePredictor(CHANNELS, predictions, [] if calls is None else calls, key)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Callable:
    prepared = tmp_path_factory.mktemp("prepared")
    write_prepared(prepared, {id: case() for id in PREDICTIONS})

    def go(out: Path, reports, source, **options):
        return run_audit(prepared, reports, source, out, Console(quiet=True), **options)

    return go


@pytest.fixture(scope="module")
def result(run, tmp_path_factory):
    reports = [report(id, TUMOUR) for id in PREDICTIONS if id != "bright"]
    bright = TUMOUR.model_copy(update={"attenuation": "hyper"})
    return run(tmp_path_factory.mktemp("out"), [*reports, report("bright", bright)], fake(PREDICTIONS))


def test_agreement_ranks_last(result) -> None:
    last = result.ranked[-1]
    assert last.id == "right"
    assert last.total < 0.1
    assert all(not site.reasons for site in last.sites)
    assert len(result.ranked) == len(PREDICTIONS)
    assert not result.left_out


@pytest.mark.parametrize(
    ("id", "name", "reason"),
    [
        ("missed", "volume", "reported 14 mm in the liver, segment 5: nothing predicted there"),
        ("missed", "location", "reported 14 mm"),
        ("missed", "count", "reported 14 mm"),
        ("other place", "location", "reported 14 mm"),
        ("other place", "false positive", "predicted 1.4 ml in the liver outside of the reported places"),
        ("small", "volume", "reported 1.4 ml in the liver, segment 5, predicted 0.12 ml"),
        ("three", "count", "reported 1 tumour in the liver, segment 5, predicted 3"),
        ("bright", "attenuation", "50 HU darker than the rest"),
        ("kidney", "false positive", "predicted 0.5 ml in the kidney, which the report calls free of tumours"),
    ],
)
def test_each_disagreement_raises_its_score(result, id: str, name: str, reason: str) -> None:
    cases = {case.id: case for case in result.ranked}
    assert cases[id].scores[name] > max(0.4, cases["right"].scores[name] + 0.3)
    assert reason in "; ".join(text for site in cases[id].sites for text in site.reasons)


@pytest.mark.parametrize(("id", "untouched"), [("kidney", "volume"), ("bright", "volume"), ("bright", "count")])
def test_other_scores_stay(result, id: str, untouched: str) -> None:
    assert {case.id: case for case in result.ranked}[id].scores[untouched] < 0.05


def test_resumes_and_notices_other_predictions(run, tmp_path) -> None:
    calls: list[str] = []
    broken = dict(PREDICTIONS, missed=predicted() + np.nan)
    reports = [report(id, TUMOUR) for id in ("right", "missed", "small")]
    first = run(tmp_path, reports, fake(broken, calls))
    assert first.left_out["missed"] == "it failed: the network's output is not a number"
    assert first.failed == ["missed"]
    assert [case.id for case in first.ranked] == ["small", "right"]
    second = run(tmp_path, reports, fake(PREDICTIONS, calls))
    assert calls == ["right", "missed", "small", "missed"]
    assert len(second.ranked) == 3
    run(tmp_path, reports, fake(PREDICTIONS, calls, key="another"))
    assert calls[4:] == ["right", "missed", "small"]


def test_damaged_crop(run, tmp_path) -> None:
    reports = [report(id, TUMOUR) for id in ("right", "missed")]
    run(tmp_path, reports, fake(PREDICTIONS))
    for path in (tmp_path / "cache" / "right").iterdir():
        path.write_bytes(b"nothing")
    result = run(tmp_path, reports, fake({}))
    assert [case.id for case in result.ranked] == ["missed"]
    assert "cache" in result.left_out["right"]


def test_nothing_can_be_written(run, tmp_path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="Not a directory"):
        run(tmp_path / "out", [report("right", TUMOUR)], fake(PREDICTIONS))


def test_says_why_cases_are_not_scored(run, tmp_path) -> None:
    spleen = Tumour(organ="spleen", diameters=(10.0,))
    pancreas = Tumour(organ="pancreas", diameters=(10.0,))
    reports = [
        report("right", negatives=()),
        report("missed", spleen, negatives=()),
        report("three", pancreas, negatives=()),
        report("gone", TUMOUR),
    ]
    result = run(tmp_path, reports, fake(PREDICTIONS))
    assert not result.ranked
    assert "no tumour" in result.left_out["right"]
    assert "spleen: left out, there is no channel" in result.left_out["missed"]
    assert result.left_out["gone"] == "it is not among the prepared cases"
    assert result.left_out["small"] == "it has no report"


def test_sites_are_named_as_the_report_does(run, tmp_path) -> None:
    said = Report(id="kidney", tumours=(TUMOUR,), negatives=(Place(organ="kidney", laterality="left"),))
    (scored,) = run(tmp_path, [said], fake(PREDICTIONS)).ranked
    assert {site.site.kind: site.site.name for site in scored.sites} == {
        "reported": "liver, segment 5",
        "elsewhere": "liver",
        "negative": "left kidney",
    }


def test_organs_of_another_label_set(tmp_path) -> None:
    shape = (16, 16, 16)
    write_case(tmp_path / "data" / "a", np.zeros(shape, bool), organs={"liver": np.ones(shape, bool)})
    prepare(
        tmp_path / "data", tmp_path / "prepared", Options(load_label_set("totalsegmentator")), 1, Console(quiet=True)
    )
    source = Predictor([make_run(tmp_path / "run", inputs=["organs"])], "cpu")
    with pytest.raises(ValueError, match="label set abdomenatlas as in training; these are of totalsegmentator"):
        run_audit(tmp_path / "prepared", [], source, tmp_path / "out", Console(quiet=True))


def test_unknown_number_of_tumours(run, tmp_path) -> None:
    some = TUMOUR.model_copy(update={"count_known": False})
    (scored,) = run(tmp_path, [report("three", some)], fake(PREDICTIONS)).ranked
    assert scored.scores["count"] == 0


def test_unknown_size(run, tmp_path) -> None:
    tiny = TUMOUR.model_copy(update={"diameters": ()})
    found, missed = sorted(
        run(tmp_path, [report(id, tiny) for id in ("right", "missed")], fake(PREDICTIONS)).ranked,
        key=lambda case: case.total,
    )
    assert found.id == "right"
    assert found.scores["volume"] == 0
    assert missed.sites[0].reasons == ["reported a tumour in the liver, segment 5: nothing predicted there"]


def test_lists_and_page(result, run, tmp_path) -> None:
    write_lists(result, CHANNELS, tmp_path, 2)
    write_page(tmp_path / "audit.html", result, "table.csv", threshold=0.5)
    rows = list(csv.DictReader((tmp_path / "audit.csv").open(encoding="utf-8")))
    assert [row["case"] for row in rows if row["kind"] == "reported"] == [case.id for case in result.ranked]
    assert (tmp_path / "annotate.txt").read_text().split("\n")[:-1] == [case.id for case in result.ranked[:2]]
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "A dark &lt;14 mm&gt; lesion." in page
    assert "prediction, p &ge; 0.5<" in page
    assert page.count("data:image/png;base64,") >= 2
    empty = run(tmp_path, [], fake({}))
    write_lists(empty, CHANNELS, tmp_path, 2)
    write_page(tmp_path / "audit.html", empty, "table.csv", threshold=0.5)
    assert "No case" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_command(tmp_path) -> None:
    shape, organ = (28, 30, 32), ((4, 26), (4, 26), (4, 26))
    tumours = {"found": box(shape, (10, 18), (10, 18), (10, 18)), "missed": np.zeros(shape, bool)}
    for id, tumour in tumours.items():
        write_case(tmp_path / "data" / id, tumour, GRIDS["flipped"], {"kidney_left": box(shape, *organ)})
    prepare(tmp_path / "data", tmp_path / "prepared", Options(load_label_set("abdomenatlas")), 1, Console(quiet=True))
    run = make_run(tmp_path / "run", spacing=(1.0, 1.0, 1.0))
    size = {"diameters": (6.4, 6.4, 20.0), "volume": 512 * 0.8 * 0.8 * 2.5}
    kidney = Tumour(organ="kidney", laterality="left", attenuation="hyper", **size)
    write_table([Report(id=id, tumours=(kidney,)) for id in tumours], tmp_path / "table.csv")
    arguments = [run, tmp_path / "prepared", "--reports", tmp_path / "table.csv", "--out", tmp_path / "out"]
    command = ["audit", *map(str, arguments), "--annotate", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 cases ranked, 0 not scored" in result.output
    assert (tmp_path / "out" / "annotate.txt").read_text() == "missed\n"
    rows = csv.DictReader((tmp_path / "out" / "audit.csv").open(encoding="utf-8"))
    totals = {row["case"]: float(row["total"]) for row in rows}
    assert totals["missed"] > 2.5 > 1 > totals["found"]
    for path in (tmp_path / "out" / "cache" / "found").iterdir():
        path.write_bytes(b"nothing")
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "1 cases ranked, 1 not scored" in result.output
