# SPDX-License-Identifier: Apache-2.0
"""`rsuper evaluate` over folders of predictions: what is paired, what is left out, what is written."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monai")

from typer.testing import CliRunner

from rsuper_train import metrics
from rsuper_train.cli import app
from rsuper_train.evaluation import evaluate
from rsuper_train.evaluation_cases import report_truth
from rsuper_train.metrics import Truth
from rsuper_train.reports.schema import Place, Report, Tumour
from rsuper_train.reports.table import write_table
from rsuper_train.reports.vocabulary import load_vocabulary

LIVER = "liver_lesion"
SHAPE = (20, 18, 12)  # of the files: W, H, D
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 99)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(values, np.uint8 if values.dtype == bool else values.dtype), affine)
    if values.dtype == np.uint8:
        image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, path)


def cube(start: int, size: int = 4) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[start : start + size, 6 : 6 + size, 4 : 4 + size] = True
    return mask


def add_case(
    root: Path, case: str, truth: np.ndarray | None, probability: np.ndarray, channel: str = LIVER, ct: bool = True
) -> None:
    """A case with its CT and truth in root/truth, its prediction at 0.5 in root/predictions."""
    if ct:
        save(root / "truth" / case / "ct.nii.gz", np.full(SHAPE, 40, np.int16))
    if truth is not None:
        save(root / "truth" / case / "lesions" / f"{channel}.nii.gz", truth)
    folder = root / "predictions" / case
    save(folder / f"{channel}.nii.gz", probability >= 0.5)
    save(folder / "probabilities" / f"{channel}.nii.gz", np.rint(probability * 255).astype(np.uint8))
    (folder / "prediction.json").write_text(json.dumps({"threshold": 0.5}))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Six cases: found well, by half, not, and with a false positive; two without tumour, one of them called."""
    add_case(tmp_path, "a", cube(2), 0.9 * cube(2))
    add_case(tmp_path, "b", cube(2), 0.8 * cube(4))
    add_case(tmp_path, "c", cube(2, 2), 0.3 * cube(2, 2))
    add_case(tmp_path, "d", cube(2, 5), np.maximum(0.7 * cube(2, 5), 0.6 * cube(14, 3)))
    add_case(tmp_path, "e", cube(0, 0), 0.1 * cube(2))
    add_case(tmp_path, "f", cube(0, 0), 0.6 * cube(2, 1))
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def read(out: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_command(cohort, tmp_path):
    out = tmp_path / "out"
    output = run(cohort / "predictions", cohort / "truth", "--out", out)
    assert "0.601" in output  # DSC
    assert not list(out.glob(".*"))
    result = read(out)
    assert result["problems"] == []
    channel = result["channels"][LIVER]
    assert channel["counts"] == {"cases": 6, "with_mask": 6, "with_tumour": 4, "lesions": 4}
    assert channel["operating_point"]["threshold"] == 0.5
    assert "not tuned" in channel["operating_point"]["origin"]
    dice_d = 2 * 125 / (125 + 125 + 27)
    assert channel["overlap"]["dsc"]["value"] == pytest.approx((1 + 0.5 + 0 + dice_d) / 4)
    values = {group: {name: e["value"] for name, e in channel[group].items()} for group in ("lesions", "patients")}
    assert values == {
        "lesions": pytest.approx(
            {"sensitivity": 3 / 4, "precision": 3 / 5, "f1": 6 / 9, "false_positives_per_case": 2 / 6}
        ),
        "patients": pytest.approx({"sensitivity": 3 / 4, "specificity": 1 / 2, "f1": 6 / 8, "auc": 7 / 8}),
    }
    strata = {name: (s["lesions"], s["lesion_sensitivity"]["value"]) for name, s in channel["strata"].items()}
    empty = dict.fromkeys(("2-4 cm", "≥ 4 cm"), (0, None))
    assert strata == {"< 1 cm": (1, 0.0), "1-2 cm": (3, 1.0), **empty, "< 2 cm": (4, 0.75)}

    with (out / "cases.csv").open(encoding="utf-8", newline="") as file:
        cases = {row["case"]: row for row in csv.DictReader(file)}
    assert float(cases["a"]["true_volume_mm3"]) == float(cases["a"]["predicted_mm3"]) == 64 * 12
    assert (cases["e"]["dsc"], cases["e"]["called"], cases["f"]["called"]) == ("", "False", "True")
    with (out / "lesions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["found"] for row in csv.DictReader(file)] == ["True", "True", "False", "True"]


@pytest.mark.slow  # starts processes that import torch
def test_processes_make_no_difference(cohort, tmp_path):
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "one")
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "two", "--workers", 2)
    assert read(tmp_path / "one") == read(tmp_path / "two")


def test_page_stands_alone(cohort, tmp_path):
    add_case(cohort, "<b>bold", cube(2), 0.9 * cube(2))
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "out")
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)|url\(|https?:", page)
    assert page.count("data:image/png") == 3 + 5  # charts, and cases with a tumour


def test_what_cannot_be_judged_is_named(cohort, tmp_path):
    save(cohort / "predictions" / "a" / f"{LIVER}.nii.gz", cube(2), np.diag([-2.0, -2.0, 5.0, 1.0]))
    half = (cohort / "truth" / "b" / "lesions" / f"{LIVER}.nii.gz").read_bytes()[:-20]
    (cohort / "truth" / "b" / "lesions" / f"{LIVER}.nii.gz").write_bytes(half)
    (cohort / "predictions" / "c" / "prediction.json").unlink()
    (cohort / "predictions" / "d" / "probabilities" / f"{LIVER}.nii.gz").unlink()
    save(cohort / "predictions" / "e" / "probabilities" / f"{LIVER}.nii.gz", np.full(SHAPE, np.nan, np.float32))
    (cohort / "truth" / "f" / "ct.nii.gz").unlink()
    add_case(cohort, "unknown", None, 0.9 * cube(2), ct=False)
    result = evaluate(cohort / "predictions", cohort / "truth", tmp_path / "out")
    problems = {problem.case: problem.message for problem in result["problems"]}
    assert set(problems) == {"a", "b", "c", "e", "1 case"}
    assert "expected the grid of the prediction" in problems["a"]
    assert "lesions/liver_lesion.nii.gz" in problems["b"]
    assert "rsuper predict" in problems["c"]
    assert "not all voxels are numbers" in problems["e"]
    assert "neither mask nor report" in problems["1 case"]
    assert result["channels"][LIVER]["counts"]["cases"] == 2  # d by its mask alone, f without a picture


def test_channel_without_a_case(cohort, tmp_path):
    """All of a second channel is broken: it has figures, too, which say that there is nothing."""
    add_case(cohort, "a", cube(2), 0.9 * cube(2), "kidney_lesion")
    (cohort / "truth" / "a" / "lesions" / "kidney_lesion.nii.gz").write_bytes(b"")
    save(cohort / "truth" / "a" / "ct.nii.gz", np.zeros((3, 3, 3), np.int16))
    channels = ("--channels", f"{LIVER},kidney_lesion")
    output = run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "out", *channels)
    assert f"a: kidney_lesion: {cohort / 'truth' / 'a' / 'lesions' / 'kidney_lesion.nii.gz'}" in output
    assert "5 cases: kidney_lesion: neither mask nor report" in output
    channel = read(tmp_path / "out")["channels"]["kidney_lesion"]
    assert channel["counts"]["cases"] == 0
    assert {figure["value"] for group in ("overlap", "lesions", "patients") for figure in channel[group].values()} == {
        None
    }
    assert "expected the grid of the prediction" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


def test_flipped_files_lie_on_one_grid(cohort, tmp_path):
    """The truth is stored with other axes than the prediction."""
    flipped = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    save(cohort / "truth" / "b" / "lesions" / f"{LIVER}.nii.gz", cube(2)[::-1], flipped)
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "out")
    assert read(tmp_path / "out")["channels"][LIVER]["counts"]["cases"] == 6
    with (tmp_path / "out" / "cases.csv").open(encoding="utf-8", newline="") as file:
        assert {row["case"]: row["dsc"] for row in csv.DictReader(file)}["b"] == "0.5"


def liver(*diameters: float, **more: object) -> Tumour:
    return Tumour(organ="liver", diameters=diameters, **more)


NOT_LIVER = Place(organ="liver")


@pytest.mark.parametrize(
    ("channel", "report", "expected"),
    [
        (LIVER, Report(id="x", tumours=(liver(10.0),)), (True, 1, 10.0)),
        (LIVER, Report(id="x", tumours=(liver(10.0), liver())), (True, 2, None)),
        (LIVER, Report(id="x", tumours=(liver(count_known=False),)), (True, None, None)),
        (LIVER, Report(id="x", negatives=(NOT_LIVER,)), (False, 0, None)),
        (LIVER, Report(id="x", negatives=(Place(organ="liver", subsegments=("segment 2",)),)), None),
        (LIVER, Report(id="x", negatives=(NOT_LIVER,), tumours=(Tumour(organ="unknown"),)), None),
        (LIVER, Report(id="x", negatives=(Place(organ="spleen"),)), None),
        (LIVER, Report(id="x", flags=("no text",)), None),
        ("kidney_lesion", Report(id="x", negatives=(Place(organ="kidney", laterality="left"),)), None),
        (
            "kidney_lesion",
            Report(id="x", negatives=tuple(Place(organ="kidney", laterality=side) for side in ("left", "right"))),
            (False, 0, None),
        ),
        ("lesion", Report(id="x", tumours=(Tumour(organ="unknown"),)), (True, 1, None)),
        ("lesion", Report(id="x", negatives=(Place(organ="spleen"),)), (False, 0, None)),
        ("liver", Report(id="x", negatives=(NOT_LIVER,)), None),
    ],
)
def test_what_a_report_says(channel, report, expected):
    truth = report_truth(report, channel, load_vocabulary())
    assert (truth and (truth.positive, truth.count)) == (expected and expected[:2])
    if expected and expected[2]:
        assert truth == Truth("report", True, 1, pytest.approx(np.pi / 6 * 1000), pytest.approx(10.0))


def test_reports_alone(cohort, tmp_path):
    table = tmp_path / "reports.csv"
    write_table(
        [
            *(Report(id=case, tumours=(liver(11.4),)) for case in "abc"),
            *(Report(id=case, negatives=(NOT_LIVER,)) for case in "ef"),
            Report(id="nobody", negatives=(NOT_LIVER,)),
        ],
        table,
    )
    run(cohort / "predictions", "--out", tmp_path / "out", "--reports", table)
    result = read(tmp_path / "out")
    channel = result["channels"][LIVER]
    assert channel["counts"] == {"cases": 5, "with_mask": 0, "with_tumour": 3, "lesions": 0}
    assert channel["patients"]["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert channel["overlap"]["dsc"]["value"] is None
    assert channel["froc"] is None
    assert channel["strata"]["1-2 cm"]["patient_sensitivity"]["cases"] == 3
    assert [tuple(problem.values()) for problem in result["problems"]] == [
        ("1 case", f"{LIVER}: neither mask nor report"),  # d
        ("1 case", "in the table of reports, but not among the predictions: nobody"),
    ]


def test_operating_point_from_validation(cohort, tmp_path):
    """At 0.3 all tumours are called; components of one voxel are none."""
    for case, truth, probability in (("v1", cube(2), 0.4 * cube(2)), ("v2", cube(0, 0), 0.7 * cube(2, 1))):
        add_case(tmp_path / "val", case, truth, probability)
    options = ("--validation", tmp_path / "val" / "predictions", "--validation-truth", tmp_path / "val" / "truth")
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "out", *options)
    channel = read(tmp_path / "out")["channels"][LIVER]
    point = channel["operating_point"]
    assert (point["threshold"], point["smallest_mm3"], point["value"]) == (0.4, 30.0, 1.0)
    assert "Youden" in point["origin"]
    assert channel["patients"]["specificity"]["value"] == 1.0
    assert channel["lesions"]["false_positives_per_case"]["value"] == pytest.approx(2 / 6)  # masks as written

    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "recut", "--recut", *options)
    result = read(tmp_path / "recut")
    assert result["masks"] == "cut at the operating point"
    assert result["channels"][LIVER]["lesions"]["false_positives_per_case"]["value"] == pytest.approx(1 / 6)


def test_operating_point_from_reports_and_cases_in_both_sets(cohort, tmp_path):
    table = tmp_path / "reports.csv"
    write_table([Report(id="a", tumours=(liver(11.4),)), Report(id="e", negatives=(NOT_LIVER,))], table)
    (tmp_path / "none" / "a").mkdir(parents=True)
    result = evaluate(
        cohort / "predictions",
        cohort / "truth",
        tmp_path / "out",
        reports=table,
        validation=cohort / "predictions",
        validation_truth=tmp_path / "none",
    )
    assert "disagreement with reports" in result["channels"][LIVER]["operating_point"].origin
    assert "2 cases: in the validation set, too" in "; ".join(f"{p.case}: {p.message}" for p in result["problems"])


@pytest.mark.parametrize("kept", ["a", "e", "ae", "ef", "ab"], ids=lambda kept: f"cases {kept}")
def test_small_cohorts(cohort, tmp_path, kept):
    for case in set("abcdef") - set(kept):
        (cohort / "predictions" / case / "prediction.json").unlink()
    run(cohort / "predictions", cohort / "truth", "--out", tmp_path / "out")
    patients = read(tmp_path / "out")["channels"][LIVER]["patients"]
    has_sick, has_well = bool(set(kept) & set("abcd")), bool(set(kept) & set("ef"))
    assert (patients["auc"]["value"] is not None) == (has_sick and has_well)
    assert (patients["sensitivity"]["value"] is not None) == has_sick
    assert (patients["specificity"]["value"] is not None) == has_well
    assert all(figure["value"] is not None or figure["reason"] for figure in patients.values())


def test_any_lesion_is_the_union_of_the_masks(tmp_path):
    add_case(tmp_path, "a", cube(2), 0.9 * (cube(2) | cube(12)), "lesion")
    (tmp_path / "truth" / "a" / "lesions" / "lesion.nii.gz").rename(tmp_path / "truth/a/lesions/liver_lesion.nii.gz")
    save(tmp_path / "truth" / "a" / "lesions" / "kidney_lesion.nii.gz", cube(12))
    result = evaluate(tmp_path / "predictions", tmp_path / "truth", tmp_path / "out")
    assert result["channels"]["lesion"]["overlap"]["dsc"].value == 1.0


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "predictions" / "a" / "prediction.json").unlink(), "no finished prediction"),
        (lambda root: (root / "truth" / "a" / "lesions" / f"{LIVER}.nii.gz").unlink(), "nothing can be judged"),
        (lambda root: (root / "truth").rename(root / "elsewhere"), "expected a folder of cases"),
    ],
    ids=["no prediction", "no truth", "no folder"],
)
def test_nothing_to_judge(tmp_path, break_it, message):
    add_case(tmp_path, "a", cube(2), 0.9 * cube(2))
    break_it(tmp_path)
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / "predictions", tmp_path / "truth", tmp_path / "out")
