# SPDX-License-Identifier: Apache-2.0
"""The synthetic cohort on a real CT: lesions as reported, inside their organ, and no mask in what training sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")

from rsuper_train.cohort import CohortOptions
from rsuper_train.cohort.case import Case
from rsuper_train.cohort.lesions import LesionOptions
from rsuper_train.cohort.real_ct import FIELD_OF_VIEW, LESIONS, ORGAN_LABELS, data_folder, load_anatomy, make_case
from rsuper_train.reports.findings import to_findings
from rsuper_train.reports.masks import LabelSet
from rsuper_train.reports.rules import RulesExtractor

LABELS = LabelSet("organs", ORGAN_LABELS)


def groups_of(case):
    """What the report says, by region of the label map."""
    return to_findings([RulesExtractor().extract(case.case_id, case.report)], LABELS, ["lesion"]).findings.groups


@pytest.fixture(scope="module")
def cohort():
    pairs = [CohortOptions(kind="ct", seed=3).make(number) for number in range(12)]
    return [case for case, _ in pairs], [truth for _, truth in pairs]


def lesions(cohort):
    for case, truth in zip(*cohort, strict=True):
        for number, tumour in enumerate(truth.tumours, start=1):
            yield case, truth, tumour, truth.instances == number


def test_anatomy_is_oriented():
    """Slices towards the head, rows towards anterior, columns towards patient right."""
    anatomy = load_anatomy(data_folder())
    centre = {name: np.argwhere(anatomy.labels == label).mean(0) for name, label in ORGAN_LABELS.items()}
    assert anatomy.ct.shape == anatomy.labels.shape == (30, 101, 122)
    assert anatomy.spacing == (3.0, 3.0, 3.0)
    assert centre["liver"][2] > centre["spleen"][2]
    assert centre["right kidney"][2] > centre["left kidney"][2]
    assert centre["liver"][1] > centre["right kidney"][1]
    assert centre["liver"][0] > centre["right kidney"][0]


def test_missing_data_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("RSUPER_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set RSUPER_DATA"):
        load_anatomy(data_folder())


def test_volumes_match_diameters(cohort):
    ratios = []
    for _, truth, tumour, mask in lesions(cohort):
        ratios.append(mask.sum() * 27.0 / tumour.ellipsoid)
        extent = 3.0 * (np.ptp(np.argwhere(mask), axis=0) + 1)
        assert extent.max() <= 1.35 * max(tumour.diameters) + 3.0, truth.report.id
    assert len(ratios) >= 10
    assert np.allclose(ratios, 1.0, atol=0.02)


def test_lesions_lie_in_their_organ_and_are_dark(cohort):
    for case, truth, tumour, mask in lesions(cohort):
        organ = case.labels == ORGAN_LABELS[str(tumour)]
        assert organ[mask].all()
        healthy = np.median(case.ct[organ & (truth.instances == 0)])
        assert np.median(case.ct[mask]) - healthy == pytest.approx(-LESIONS.contrast[0], abs=20)
        assert tumour.attenuation == "hypo"
        assert max(tumour.diameters) >= 18.0


def test_cases_look_like_ct(cohort):
    anatomy = load_anatomy(data_folder())
    for case in cohort[0]:
        liver = case.labels == ORGAN_LABELS["liver"]
        assert case.ct.shape == case.labels.shape == FIELD_OF_VIEW
        assert case.ct.dtype == np.float32
        assert np.median(case.ct[liver]) == pytest.approx(np.median(anatomy.ct[anatomy.labels == 5]), abs=12)
        assert case.ct.min() < -800
        assert case.ct.max() > 400


def test_training_part_carries_no_mask(cohort):
    assert {field.name for field in dataclasses.fields(Case)} == {"case_id", "ct", "labels", "spacing", "report"}
    known = set(np.unique(load_anatomy(data_folder()).labels))
    for case, truth in zip(*cohort, strict=True):
        assert set(np.unique(case.labels)) <= known
        for value in vars(case).values():
            assert not (isinstance(value, np.ndarray) and value is truth.instances)


def test_report_says_what_was_implanted(cohort):
    pytest.importorskip("rsuper_train.reports.rules.extractor")
    for case, truth in zip(*cohort, strict=True):
        said = {group.region: group.tumours for group in groups_of(case) if group.tumours}
        assert sum(map(len, said.values())) == len(truth.tumours), case.report
        for tumour in truth.tumours:
            here = next(tumours for region, tumours in said.items() if ORGAN_LABELS[str(tumour)] in region)
            assert tumour.ellipsoid in [pytest.approx(reported.volume) for reported in here]
            assert {reported.attenuation for reported in here} == {"hypo"}


def test_seed_and_number_decide(cohort):
    again, truth = CohortOptions(kind="ct", seed=3, start=1).make(1)
    assert np.array_equal(again.ct, cohort[0][1].ct)
    assert np.array_equal(truth.instances, cohort[1][1].instances)
    assert again.report == cohort[0][1].report


def test_no_lesions_when_none_are_asked_for():
    anatomy = load_anatomy(data_folder())
    case, truth = make_case(anatomy, np.random.default_rng(0), "case", LesionOptions(count=(0, 0)))
    assert truth.tumours == ()
    assert not (truth.instances > 0).any()
    assert all(group.negative for group in groups_of(case))


def test_data_folder_follows_the_environment(monkeypatch):
    here = Path(__file__).parents[2] / "examples" / "data"
    monkeypatch.setenv("RSUPER_DATA", str(here))
    assert data_folder() == here
