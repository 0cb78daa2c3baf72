# SPDX-License-Identifier: Apache-2.0
"""Attenuation Loss: the sign rules, whose voxels are compared, and the classifier that reports cannot bend."""

import pytest
import torch

from rsuper_kernels import (
    PAPER,
    AttenuationClassifier,
    AttenuationLoss,
    FindingGroup,
    Findings,
    ReportSupervisedLoss,
    Tumour,
    attenuation_loss,
    get_recipe,
)
from rsuper_kernels.losses.attenuation import CLASSES, attenuation_features, contrast_hinge, group_attenuation
from tests.helpers import ball_mask, logit, scene

UNIT = (1.0, 1.0, 1.0)


def stats(mean_t: float, mean_o: float, sd_o: float = 8.0) -> torch.Tensor:
    """(1, 2, 3): 50 voxels of tumour, 500 of organ."""
    return torch.tensor([[[50.0, mean_t, 5.0], [500.0, mean_o, sd_o]]], dtype=torch.float64)


def said(*attenuations: str, region=1, **options) -> Findings:
    tumours = tuple(Tumour((4.0,), attenuation=a) for a in attenuations)
    return Findings((FindingGroup(0, 0, region, tumours, **options),))


def row(*probabilities: float) -> torch.Tensor:
    return torch.tensor([logit(p) if p else -1e4 for p in probabilities], dtype=torch.float64).reshape(1, 1, 1, 1, -1)


def hu(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, 1, -1)


# 4 voxels of organ, the first two half tumour: tumour mean 15; organ weights .5 .5 1 1, mean 85 / 3, sd 10.672
LOGITS, CT, REGION = row(0.5, 0.5, 0, 0), hu(10, 20, 30, 40), torch.ones(1, 1, 1, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("attenuation", "mean_t", "delta", "expected"),
    [
        ("hypo", 40, 0, 0),  # 60 HU organ: darker, as reported
        ("hypo", 76, 0, 2),  # 16 HU too bright, sd 8
        ("hypo", 56, 12, 1),  # 4 HU darker where 12 were asked for
        ("hyper", 76, 0, 0),
        ("hyper", 40, 0, 2.5),
        ("hyper", 64, 12, 1),
        ("iso", 69, 0, 0),  # within 10 HU
        ("iso", 78, 0, 1),
        ("iso", 34, 12, 2),  # delta is not for iso
        ("mixed", 0, 12, 0),
        ("unknown", 200, 12, 0),
    ],
)
def test_sign_rules(attenuation, mean_t, delta, expected):
    recipe = get_recipe(attenuation_delta=float(delta))
    assert contrast_hinge(stats(mean_t, 60), [attenuation], recipe).item() == pytest.approx(expected)


def test_contrast_is_in_units_of_at_least_one_hu_and_the_unit_is_constant():
    assert contrast_hinge(stats(65, 60, sd_o=0.1), ["hypo"], PAPER).item() == pytest.approx(5)
    leaf = stats(76, 60).requires_grad_()
    contrast_hinge(leaf, ["hypo"], PAPER).sum().backward()
    expected = torch.tensor([[[0, 1 / 8, 0], [0, -1 / 8, 0]]], dtype=torch.float64)
    torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize(
    ("attenuations", "count_known", "group"),
    [
        (("hypo", "hypo"), True, "hypo"),
        (("hypo", "hyper"), True, "mixed"),
        (("iso",), True, "iso"),
        (("hypo", "unknown"), True, "unknown"),
        ((), True, "unknown"),
        (("hypo",), False, "unknown"),  # what the others look like is not said
    ],
)
def test_what_a_group_looks_like_together(attenuations, count_known, group):
    tumours = tuple(Tumour((4.0,), attenuation=a) for a in attenuations)
    assert group_attenuation(FindingGroup(0, 0, 1, tumours, count_known)) == group


@pytest.mark.parametrize(
    ("attenuation", "options", "expected"),
    [
        ("hypo", {}, 0),
        ("hypo", {"attenuation_delta": 20.0}, 20 / 3 / 10.672),  # 15 - 28.333 + 20
        ("hyper", {}, 40 / 3 / 10.672),
        ("iso", {}, 10 / 3 / 10.672),  # 13.333 - 10
        ("iso", {"iso_band": 14.0}, 0),
        ("mixed", {}, 0),
    ],
)
def test_by_hand(attenuation, options, expected):
    loss = attenuation_loss(LOGITS, CT, said(attenuation), REGION, UNIT, region_margin=0.0, **options)
    assert loss.item() == pytest.approx(expected, abs=1e-3)


def test_window_clips_the_ct():
    """Clipped to [25, 35]: 25 25 30 35; tumour 25, organ (25 + 30 + 35) / 3 = 30, sd 4.08."""
    loss = attenuation_loss(LOGITS, CT, said("hyper"), REGION, UNIT, region_margin=0.0, window=(25.0, 35.0))
    assert loss.item() == pytest.approx(5 / (50 / 3) ** 0.5, abs=1e-3)


def test_mean_over_the_groups_that_speak():
    groups = [FindingGroup(0, 0, 1, (Tumour((4.0,), attenuation=a),)) for a in ("hyper", "hypo", "mixed", "unknown")]
    absent = FindingGroup(0, 0, 9, (Tumour((4.0,), attenuation="hyper"),))
    loss = attenuation_loss(LOGITS, CT, Findings((*groups, absent)), REGION, UNIT, region_margin=0.0)
    assert loss.item() == pytest.approx(40 / 3 / 10.672 / 2, abs=1e-3)


def test_annotated_planes_take_no_part():
    findings = Findings(said("hyper").groups, annotated={(0, 0)})
    assert attenuation_loss(LOGITS, CT, findings, REGION, UNIT).item() == 0
    criterion = ReportSupervisedLoss(attenuation_weight=1.0, attenuation_scope="group")
    assert criterion(LOGITS, findings, REGION, UNIT, ct=CT)["attenuation"].item() == 0


def test_gradient_seeks_voxels_of_the_reported_kind():
    """A bright and a dark half: a hyperattenuating tumour is drawn to the one, a hypoattenuating to the other."""
    ct = torch.where(torch.arange(8) < 4, 20.0, 80.0).double().expand(1, 1, 5, 6, 8)
    regions = torch.ones(1, 5, 6, 8, dtype=torch.int64)
    # the wrong half looks more like tumour
    for attenuation, wrong in (("hyper", torch.arange(8) < 4), ("hypo", torch.arange(8) >= 4)):
        leaf = torch.where(wrong, 0.5, -0.5).double().expand(1, 1, 5, 6, 8).clone().requires_grad_()
        loss = attenuation_loss(leaf, ct, said(attenuation), regions, UNIT)
        assert loss.item() > 0
        loss.backward()
        assert (leaf.grad[..., wrong] > 0).all()
        assert (leaf.grad[..., ~wrong] < 0).all()


def test_no_gradient_to_the_ct_and_none_outside_the_margin():
    leaf = row(0.5, 0.5, 0.5, 0.5, 0.5, 0.5).requires_grad_()
    regions = torch.tensor([1, 1, 0, 0, 0, 0]).reshape(1, 1, 1, 6)
    ct = hu(10, 20, 30, 40, 50, 60).requires_grad_()
    attenuation_loss(leaf, ct, said("hypo"), regions, UNIT, region_margin=1.0).backward()
    assert ct.grad is None
    assert (leaf.grad.flatten() != 0).tolist() == [True, True, True, False, False, False]


def test_ct_with_and_without_its_channel_axis_and_in_integers():
    for attenuation in ("hyper", "iso"):
        scans = (CT, CT[:, 0], CT.short())
        losses = {attenuation_loss(LOGITS, ct, said(attenuation), REGION, UNIT).item() for ct in scans}
        assert len(losses) == 1
        assert losses.pop() > 0


def test_scope_tumour_compares_each_tumour_s_own_voxels():
    """A dark and a bright lesion: together "mixed", silent; each by itself as reported, or the wrong way round."""
    shape = (16, 16, 24)
    first, second = ball_mask(shape, (8, 8, 6), 3.0), ball_mask(shape, (8, 8, 18), 2.4)
    logits = torch.where(first | second, 2.0, -4.0).double()[None, None]
    ct = (torch.full(shape, 60.0).double() - 40.0 * first + 40.0 * second)[None, None]
    regions = torch.ones(1, *shape, dtype=torch.int64)

    def loss(large: str, small: str, scope: str) -> float:
        tumours = (Tumour((6.0,), attenuation=large), Tumour((4.6,), attenuation=small))
        findings = Findings((FindingGroup(0, 0, 1, tumours),))
        criterion = ReportSupervisedLoss(attenuation_weight=1.0, attenuation_scope=scope)
        return criterion(logits, findings, regions, UNIT, ct=ct)["attenuation"].item()

    assert loss("hypo", "hyper", "group") == loss("hyper", "hypo", "group") == 0
    assert loss("hypo", "hyper", "tumour") == 0
    assert loss("hyper", "hypo", "tumour") > 1  # both 40 HU off, in units of the organ's sd
    # one right, one wrong: the mean of both
    half = loss("hyper", "hyper", "tumour")
    assert 0 < half < loss("hyper", "hypo", "tumour")


def test_another_tumour_is_not_organ():
    """Two lesions of 20 HU in 60 HU: without the other lesion the organ is 60 HU flat (sd below 1 counts as 1).

    30 HU more than the 40 are asked for, so each lesion costs 30.
    """
    shape = (16, 16, 24)
    lesions = [ball_mask(shape, (8, 8, 6), 3.0), ball_mask(shape, (8, 8, 18), 2.4)]
    logits = torch.where(lesions[0] | lesions[1], 40.0, -40.0).double()[None, None]
    ct = torch.where(lesions[0] | lesions[1], 20.0, 60.0).double()[None, None]
    tumours = [
        Tumour((diameter,), volume=float(lesion.sum()), attenuation="hypo")
        for diameter, lesion in zip((6.0, 4.8), lesions, strict=True)
    ]
    findings = Findings((FindingGroup(0, 0, 1, tumours),))
    criterion = ReportSupervisedLoss(attenuation_weight=1.0, attenuation_delta=70.0)
    losses = criterion(logits, findings, torch.ones(1, *shape, dtype=torch.int64), UNIT, ct=ct)
    assert losses["attenuation"].item() == pytest.approx(30, abs=1e-3)


def test_ct_is_needed_only_where_a_report_speaks_of_it():
    s = scene()
    criterion = ReportSupervisedLoss()
    with pytest.raises(
        ValueError, match="ct: the reports give attenuations; pass the CT in HU, or set attenuation_weight=0"
    ):
        criterion(s.logits, s.findings, s.regions, s.spacing)
    silent = Findings((FindingGroup(0, 0, 1, (Tumour((4.0,)),)),), batch_size=2, channels=3)
    assert criterion(s.logits, silent, s.regions, s.spacing)["attenuation"].item() == 0
    assert "attenuation" not in ReportSupervisedLoss(attenuation_weight=0.0)(s.logits, s.findings, s.regions, s.spacing)


def test_features_by_hand():
    """Organ mean and sd, tumour mean and sd, differences, and their shares of a patch of 1000 voxels."""
    features = attenuation_features(stats(40, 60), 1000)
    assert features.tolist() == [[60, 8, 40, 5, -20, -3, 0.5, 0.05]]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_classifier_takes_no_gradient_but_gives_it(frozen):
    classifier = AttenuationClassifier(hidden=16)
    features = torch.randn(4, 8, requires_grad=True)
    loss = classifier.loss(features, ["hypo", "hyper", "mixed", "hypo"], frozen=frozen)
    loss.backward()
    assert features.grad.any()
    for parameter in classifier.parameters():
        assert (parameter.grad is None) if frozen else parameter.grad.any()


def test_frozen_classifier_says_the_same():
    classifier = AttenuationClassifier()
    features = torch.randn(4, 8)
    assert torch.equal(classifier(features, frozen=True), classifier(features))


def test_classifier_counts_only_its_classes():
    classifier = AttenuationClassifier(hidden=4)
    features = torch.randn(5, 8)
    loss = classifier.loss(features, ["iso", "hyper", "unknown", "mixed", "iso"])
    rows = classifier(features[[1, 3]]).log_softmax(1)
    assert loss.item() == pytest.approx(-(rows[0, CLASSES.index("hyper")] + rows[1, CLASSES.index("mixed")]).item() / 2)
    nothing = classifier.loss(features[:2].requires_grad_(), ["iso", "unknown"])
    assert nothing.item() == 0
    nothing.backward()


def test_classifier_learns_from_masks():
    classifier = AttenuationClassifier(hidden=16)
    features = attenuation_features(torch.cat([stats(20, 60), stats(100, 60), stats(62, 60)]), 1000).float()
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        classifier.loss(features, CLASSES).backward()
        optimiser.step()
    assert classifier(features).argmax(1).tolist() == [0, 1, 2]


def test_classifier_refusals():
    classifier = AttenuationClassifier()
    with pytest.raises(ValueError, match=r"features: expected \(G, 8\) = \(2, 8\), got shape \(2, 7\)"):
        classifier(torch.zeros(2, 7))
    with pytest.raises(ValueError, match="attenuations: expected one for each of 2 rows of features, got 1"):
        classifier.loss(torch.zeros(2, 8), ["hypo"])
    with pytest.raises(ValueError, match="attenuation: expected one of hypo, hyper, mixed, iso, unknown, got 'dark'"):
        classifier.loss(torch.zeros(1, 8), ["dark"])


def test_module_is_the_function():
    s = scene()
    options = {"attenuation_delta": 10.0, "iso_band": 5.0, "region_margin": 2.0}
    module = AttenuationLoss(**options)
    expected = attenuation_loss(s.logits, s.ct, s.findings, s.regions, s.spacing, **options)
    assert module(s.logits, s.ct, s.findings, s.regions, s.spacing).item() == expected.item() > 0


@pytest.mark.parametrize(
    ("ct", "error", "message"),
    [
        (
            torch.zeros(1, 2, 1, 1, 4),
            ValueError,
            r"ct: expected \(B, 1, D, H, W\) = \(1, 1, 1, 1, 4\), got .*\(1, 2, 1",
        ),
        (torch.zeros(1, 1, 4), ValueError, r"ct: expected \(B, D, H, W\) = \(1, 1, 1, 4\), got shape \(1, 1, 4\)"),
        (torch.zeros(1, 1, 1, 4, device="meta"), ValueError, r"ct: expected on the device of logits \(cpu\), got meta"),
    ],
    ids=["channels", "axes", "device"],
)
def test_ct_refusals(ct, error, message):
    with pytest.raises(error, match=message):
        attenuation_loss(LOGITS, ct, said("hypo"), REGION, UNIT)


def test_window_is_checked():
    with pytest.raises(ValueError, match=r"window: expected \(low, high\) in HU with low < high, got \(50.0, -50.0\)"):
        attenuation_loss(LOGITS, CT, said("hypo"), REGION, UNIT, window=(50.0, -50.0))
