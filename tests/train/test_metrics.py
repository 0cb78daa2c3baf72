# SPDX-License-Identifier: Apache-2.0
"""Scores against tables made by hand and against scikit-learn; operating points; cohorts that lack something."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("monai")

from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from rsuper_train import metrics
from rsuper_train.metrics import Lesion, MaskScore, OperatingPoint, Truth
from rsuper_train.reports.schema import Tumour

SPACING = (3.0, 2.0, 1.0)
OWN = OperatingPoint(0.5, 0.0, "own")


@pytest.fixture
def truth():
    """Two lesions of 64 voxels each."""
    volume = np.zeros((8, 24, 24), bool)
    volume[2:6, 2:6, 2:6] = volume[2:6, 14:18, 14:18] = True
    return volume


def score(predicted, truth, spacing=SPACING):
    return metrics.score_mask(predicted, truth, predicted * np.float32(0.9), spacing)


def test_perfect(truth):
    result = score(truth, truth)
    assert (result.dice, result.nsd, result.false_positives) == (1.0, 1.0, ())
    assert [lesion.found for lesion in result.lesions] == [True, True]
    assert result.lesions[0].volume_mm3 == 64 * 6
    assert result.lesions[0].diameter_mm == pytest.approx((6 * 64 * 6 / math.pi) ** (1 / 3))


@pytest.mark.parametrize("diameter", [10.0, 20.0, 40.0])
def test_reported_diameters_at_the_border_of_strata(diameter):
    volume = Tumour(organ="liver", diameters=(diameter,)).ellipsoid
    strata = [low for low, high in metrics.STRATA.values() if low <= metrics.ball_diameter(volume) < high]
    assert strata == [diameter] + [0] * (diameter < 20)


def test_half_overlap_and_a_false_positive(truth):
    predicted = np.zeros_like(truth)
    predicted[2:6, 2:6, 4:8] = predicted[0:2, 20:24, 0:2] = True
    result = score(predicted, truth)
    assert result.dice == pytest.approx(2 * 32 / (128 + 64 + 16))
    assert [lesion.found for lesion in result.lesions] == [True, False]
    assert [lesion.probability for lesion in result.lesions] == pytest.approx([0.9, 0])
    assert result.false_positives == pytest.approx((0.9,))


@pytest.mark.parametrize(("voxels", "found"), [(0, 0), (6, 0), (7, 1)], ids=["none", "below 10 %", "above 10 %"])
def test_share_that_counts_as_found(truth, voxels, found):
    predicted = np.zeros_like(truth)
    predicted[tuple(np.argwhere(truth & (np.arange(24) < 10))[:voxels].T)] = True
    result = score(predicted, truth)
    assert sum(lesion.found for lesion in result.lesions) == found
    assert result.false_positives == ()  # it touches the lesion, found or not


def test_centre_counts_as_found(truth):
    predicted = np.zeros_like(truth)
    predicted[3, 3, 3] = True
    assert [lesion.found for lesion in score(predicted, truth).lesions] == [True, False]


def test_one_component_over_two_lesions(truth):
    result = score(np.ones_like(truth), truth)
    assert [lesion.found for lesion in result.lesions] == [True, True]
    assert result.false_positives == ()


def test_surfaces_within_two_millimetres(truth):
    """Of a slab moved by one voxel, 3 mm, along D: its two large faces are too far, at 1 mm spacing all are near."""
    slab, moved = np.zeros_like(truth), np.zeros_like(truth)
    slab[2:4, 2:22, 2:22] = moved[3:5, 2:22, 2:22] = True
    assert score(moved, slab, (1.0, 1.0, 1.0)).nsd == 1.0
    assert score(moved, slab, (3.0, 1.0, 1.0)).nsd == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("predicted", "expected"), [(False, (0.0, 0.0)), (True, (1.0, 1.0))], ids=["nothing predicted", "all"]
)
def test_mask_that_fills_the_volume(predicted, expected):
    result = score(np.full((2, 2, 2), predicted), np.ones((2, 2, 2), bool))
    assert (result.dice, result.nsd) == expected


def test_no_lesion(truth):
    empty = np.zeros_like(truth)
    assert score(empty, empty) == MaskScore(None, None, (), ())
    result = score(truth, empty)
    assert (result.dice, result.nsd, len(result.false_positives)) == (None, None, 2)


@pytest.mark.parametrize(("smallest", "expected"), [(0, 0.9), (6, 0.9), (7, 0.6), (48, 0.6), (49, 0.0)])
def test_patient_score(smallest, expected):
    probability = np.zeros((4, 6, 6), np.float32)
    probability[1:3, 1:3, 1:3] = 0.6
    probability[1, 1, 1] = 0.9
    assert metrics.patient_score(probability, SPACING, smallest) == pytest.approx(expected)


def test_patient_score_agrees_with_the_mask_at_every_threshold():
    random = np.random.default_rng(0)
    probability = np.round(random.random((6, 7, 8)) ** 2, 2).astype(np.float32)
    for smallest in (0.0, 20.0, 60.0, 300.0):
        level = metrics.patient_score(probability, SPACING, smallest)
        for threshold in np.linspace(0.05, 0.95, 10):
            mask = metrics.segment(probability, SPACING, OperatingPoint(float(threshold), smallest, ""))
            assert mask.any() == (level >= threshold)


def with_volumes(*levels):
    """Volumes of one component that lasts up to a threshold: [(threshold, mm3), ...], one entry a component."""
    return [np.array([0.0, *(v for last, v in levels if t <= last)]) for t in metrics.THRESHOLDS]


def test_operating_point_of_the_highest_youden_index():
    sick, well = Truth("mask", True), Truth("mask", False)
    cases = [(sick, with_volumes((0.8, 400.0)))] * 3 + [(well, with_volumes((0.95, 50.0)))] * 2
    point = metrics.choose_operating_point(cases, OWN, "val")
    assert (point.threshold, point.smallest_mm3, point.value) == (0.5, 100.0, 1.0)  # nearest to its own, then smallest
    assert "5 cases of val" in point.origin


def test_operating_point_from_reports_alone():
    """The volume at 0.3 is the reported one, and a component that no report names is too small."""
    volumes = [np.array([0.0, 4000.0 if t < 0.25 else 1000.0 if t < 0.35 else 200.0, 40.0]) for t in metrics.THRESHOLDS]
    cases = [(Truth("report", True, 1, 1000.0), volumes), (Truth("report", False, 0, 0.0), with_volumes((0.99, 90.0)))]
    point = metrics.choose_operating_point(cases, OWN, "val")
    assert (point.threshold, point.smallest_mm3, point.value) == (0.3, 100.0, 0.0)
    unsized = [(Truth("report", True, 1), volumes)]
    assert metrics.choose_operating_point(unsized, OWN, "val").smallest_mm3 == 100.0


@pytest.mark.parametrize(
    ("truths", "reason"),
    [([], "no case with"), ([Truth("mask", True)], "no case without"), ([Truth("mask", False)], "no case with ")],
    ids=["empty", "all sick", "all well"],
)
def test_operating_point_that_cannot_be_chosen(truths, reason):
    point = metrics.choose_operating_point([(truth, with_volumes()) for truth in truths], OWN, "val")
    assert (point.threshold, point.smallest_mm3, point.value) == (0.5, 0.0, None)
    assert reason in point.origin


def test_rates_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    truth = random.random(60) < 0.4
    scores = np.clip(truth * 0.3 + random.random(60) * 0.7, 0, 1)
    called = scores >= 0.5
    hits = truth & called
    both = truth.astype(int) + called
    expected = {
        "sensitivity": (metrics.ratio(hits, truth, 0), recall_score(truth, called)),
        "specificity": (metrics.ratio(~truth & ~called, ~truth, 0), recall_score(~truth, ~called)),
        "precision": (metrics.ratio(hits, called, 0), precision_score(truth, called)),
        "F1": (metrics.ratio(2 * hits, both, 0), f1_score(truth, called)),
        "AUC": (metrics.area_under_curve(truth, scores, 0), roc_auc_score(truth, scores)),
    }
    for name, (estimate, value) in expected.items():
        assert estimate.value == pytest.approx(value), name
        assert estimate.low < value < estimate.high, name
    assert metrics.ratio(hits, truth, 0) == metrics.ratio(hits, truth, 0)


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(1).normal(0.7, 0.1, 200)
    estimate = metrics.mean(values, 0)
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)


@pytest.mark.parametrize(
    ("estimate", "value", "reason"),
    [
        (lambda: metrics.mean([], 0), None, "no case"),
        (lambda: metrics.mean([None, None], 0), None, "no case"),
        (lambda: metrics.ratio([0, 0], [0, 0], 0), None, "no case"),
        (lambda: metrics.mean([0.4], 0), 0.4, "too few"),
        (lambda: metrics.ratio([2, 3], [2, 3], 0), 1.0, "agree"),
        (lambda: metrics.area_under_curve(np.array([], bool), np.array([]), 0), None, "no case with a"),
        (lambda: metrics.area_under_curve(np.array([True]), np.array([0.4]), 0), None, "no case without"),
        (lambda: metrics.area_under_curve(np.array([True, False]), np.array([0.4, 0.2]), 0), 1.0, "too few"),
    ],
    ids=["empty", "all unknown", "nothing to find", "one case", "all alike", "no patient", "no negative", "two cases"],
)
def test_cohorts_that_lack_something(estimate, value, reason):
    result = estimate()
    assert (result.value, result.low, result.high) == (value, None, None)
    assert reason in result.reason


def test_froc_made_by_hand():
    def lesion(found, probability):
        return Lesion(1.0, 1.0, found, probability)

    scores = [
        MaskScore(0.5, 0.5, (lesion(True, 0.9), lesion(False, 0.8)), (0.6,)),
        MaskScore(0.5, 0.5, (lesion(True, 0.7),), ()),
        MaskScore(None, None, (), (0.95, 0.55)),
    ]
    curve = metrics.froc(scores)
    steps = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2), (3, 2)]  # (false positives, found) at 1, .95, .9, .7, .6, .55
    assert curve["false_positives_per_case"] == pytest.approx([wrong / 3 for wrong, _ in steps])
    assert curve["sensitivity"] == pytest.approx([found / 3 for _, found in steps])
    assert metrics.froc([MaskScore(None, None, (), (0.5,))]) is None
