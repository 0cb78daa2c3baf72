# SPDX-License-Identifier: Apache-2.0
"""The work of a user from a folder of cases to an evaluated network, by the commands of the README."""

from __future__ import annotations

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rsuper_train.cli import app

CONFIG = """
data:
  channels: [liver_lesion, kidney_lesion]
  inputs: [contrast, organs]
  patch: [16, 24, 32]
network: {name: UNet, arguments: {channels: [4, 8], strides: [2]}}
stages:
  - {name: masks, steps: 2, report_ratio: 0}
  - {name: masks and reports, steps: 3, report_ratio: 0.5}
hardware: {accelerator: cpu, devices: 1, workers: 0, threads: 1}
logging: {every: 1, tensorboard: false}
predict: {gate: 0, threshold: 0.01}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder after all commands."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "run.yaml").write_text(CONFIG)

    def rsuper(*arguments: object) -> None:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    phantoms = ("--spacing", 9, 8, 8, "--seed", 3)
    rsuper("cohort", folder / "train", "--cases", 8, "--masks", 3, *phantoms)
    rsuper("cohort", folder / "test", "--cases", 4, "--masks", 4, "--start", 100, "--turned", *phantoms)
    rsuper("reports", "extract", folder / "train" / "reports.csv", folder / "tumours.csv", "--workers", 1)
    prepared = ("--own-spacing", "--label-set", "abdomenatlas", "--workers", 1)
    rsuper("prepare", folder / "train" / "cases", folder / "prepared", *prepared)
    paths = {"run": "run", "data.prepared": "prepared", "data.reports": "tumours.csv"}
    rsuper(
        "train", folder / "run.yaml", *(s for key, path in paths.items() for s in ("--set", f"{key}={folder / path}"))
    )
    rsuper("predict", folder / "run", folder / "test" / "cases", folder / "predictions")
    rsuper("evaluate", folder / "predictions", folder / "test" / "cases", "--out", folder / "evaluation")
    rsuper("audit", folder / "run", folder / "prepared", "--reports", folder / "tumours.csv", "--out", folder / "audit")
    return folder


def test_training_went_through_both_stages(folder):
    rows = list(csv.DictReader((folder / "run" / "losses.csv").open()))
    assert [row["stage"] for row in rows] == 2 * ["masks"] + 3 * ["masks and reports"]
    assert all(float(row["ball_bce"]) == 0 for row in rows[:2])
    assert any(float(row["ball_bce"]) > 0 for row in rows[2:])


def test_predictions_lie_on_the_grids_of_the_cts(folder):
    for case in (folder / "test" / "cases").iterdir():
        ct = nib.load(case / "ct.nii.gz")
        for channel in ("liver_lesion", "kidney_lesion"):
            mask = nib.load(folder / "predictions" / case.name / f"{channel}.nii.gz")
            assert mask.shape == ct.shape
            np.testing.assert_allclose(mask.affine, ct.affine)


def test_evaluation_says_what_the_masks_say(folder):
    """Volumes of the cases, measured here once more, on the files."""
    result = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    assert set(result["channels"]) == {"liver_lesion", "kidney_lesion"}
    assert not result["problems"]
    for row in csv.DictReader((folder / "evaluation" / "cases.csv").open()):
        mask = nib.load(folder / "predictions" / row["case"] / f"{row['channel']}.nii.gz")
        truth = nib.load(folder / "test" / "truth" / row["case"] / "lesions" / f"{row['channel']}.nii.gz")
        volumes = [np.count_nonzero(i.dataobj) * abs(np.linalg.det(i.affine[:3, :3])) for i in (mask, truth)]
        assert [float(row["predicted_mm3"]), float(row["true_volume_mm3"])] == pytest.approx(volumes, rel=1e-3)


def test_audit_lists_cases_to_annotate(folder):
    ids = (folder / "audit" / "annotate.txt").read_text().split()
    assert ids
    assert set(ids) <= {case.name for case in (folder / "train" / "cases").iterdir()}
