# SPDX-License-Identifier: Apache-2.0
"""Scores: overlap, found lesions, false positives, volumes; and the operating point chosen from reports."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("monai")

import torch

from rsuper_kernels import FindingGroup, Findings, Tumour
from rsuper_train.calibrate import OperatingPoint, choose_operating_point
from rsuper_train.data import Sample
from rsuper_train.evaluate import score_case, summarise
from rsuper_train.reports.schema import Report

SPACING = (3.0, 2.0, 1.0)


@pytest.fixture
def instances():
    """Two lesions of 64 voxels each."""
    volume = np.zeros((8, 24, 24), np.uint8)
    volume[2:6, 2:6, 2:6] = 1
    volume[2:6, 14:18, 14:18] = 2
    return volume


def test_perfect(instances):
    score = score_case("a", instances > 0, instances, SPACING)
    assert (score.dice, score.lesions, score.found, score.false_positives) == (1.0, 2, 2, 0)
    assert score.true_volume == score.predicted_volume == 128 * 6.0


def test_half_overlap_and_a_false_positive(instances):
    predicted = np.zeros(instances.shape, bool)
    predicted[2:6, 2:6, 4:8] = True
    predicted[0:2, 20:24, 0:2] = True
    score = score_case("a", predicted, instances, SPACING)
    assert score.dice == pytest.approx(2 * 32 / (128 + 64 + 16))
    assert (score.found, score.false_positives) == (1, 1)


@pytest.mark.parametrize(("voxels", "found"), [(0, 0), (6, 0), (7, 1)], ids=["none", "below 10 %", "above 10 %"])
def test_share_that_counts_as_found(instances, voxels, found):
    predicted = np.zeros(instances.shape, bool)
    predicted[tuple(np.argwhere(instances == 1)[:voxels].T)] = True
    assert score_case("a", predicted, instances, SPACING).found == found


def test_centre_counts_as_found(instances):
    predicted = np.zeros(instances.shape, bool)
    predicted[3, 3, 3] = True
    score = score_case("a", predicted, instances, SPACING)
    assert (score.found, score.false_positives) == (1, 0)


def test_one_component_over_two_lesions(instances):
    score = score_case("a", np.ones(instances.shape, bool), instances, SPACING)
    assert (score.found, score.false_positives) == (2, 0)


def test_summary(instances):
    empty = np.zeros_like(instances)
    perfect = score_case("a", instances > 0, instances, SPACING)
    clean = score_case("b", empty > 0, empty, SPACING)
    alarm = score_case("c", instances == 1, empty, SPACING)
    assert clean.dice is None
    summary = summarise([perfect, clean, alarm])
    assert (summary.dice, summary.sensitivity, summary.lesions) == (1.0, 1.0, 2)
    assert summary.dice_with_empty == pytest.approx(2 / 3)
    assert summary.false_positives_per_case == pytest.approx(1 / 3)
    assert summary.volume_error_mm3 == pytest.approx(64 * 6.0 / 3)
    assert summary.volume_error_percent == 0.0


def test_summary_without_lesions():
    empty = np.zeros((4, 4, 4), np.uint8)
    summary = summarise([score_case("a", empty > 0, empty, SPACING)])
    assert np.isnan(summary.dice)
    assert np.isnan(summary.sensitivity)


def test_bad_input(instances):
    with pytest.raises(ValueError, match=r"case-7.*shape"):
        score_case("case-7", np.zeros((2, 2, 2), bool), instances, SPACING)
    with pytest.raises(ValueError, match="no case"):
        summarise([])


def test_operating_point_follows_the_report():
    """A lesion of the reported volume at 0.65, a dimmer rim around it and a speck: the report tells them apart."""
    tumours = (Tumour((24.0,), attenuation="hypo"),)
    probability = np.full((24, 24, 24), 0.05)
    grid = np.stack(np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij"))
    radius = 3.0 * np.sqrt((grid**2).sum(0))
    probability[radius <= 20] = 0.35
    probability[radius <= 12] = 0.65
    probability[1:3, 1:3, 1:3] = 0.9
    sample = Sample(
        case_id="a",
        image=torch.zeros(2, 24, 24, 24),
        ct=torch.zeros(1, 24, 24, 24),
        labels=torch.full((24, 24, 24), 5),
        report=Report(id="a"),
        findings=Findings((FindingGroup(0, "lesion", (5,), tumours),), batch_size=1, channels=("lesion",)),
        spacing=(3.0, 3.0, 3.0),
        window=(slice(0, 24),) * 3,
    )
    point = choose_operating_point([probability], [sample])
    assert 0.35 <= point.threshold < 0.65
    assert np.array_equal(point.apply(probability, sample), radius <= 12)
    assert choose_operating_point([], []).threshold == OperatingPoint().threshold
