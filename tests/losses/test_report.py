# SPDX-License-Identifier: Apache-2.0
"""The whole training loss: which term acts on which head, plane and voxel, and with what weight."""

import math

import pytest
import torch

from rsuper_kernels import (
    FindingGroup,
    Findings,
    ReportSupervisedLoss,
    Tumour,
    ball_loss,
    known_voxels,
    pseudo_masks,
    segmentation_loss,
    volume_loss,
)
from tests.helpers import ball_mask, box_mask, logit, random_logits, random_mask, scene

UNIT = (1.0, 1.0, 1.0)
RECIPES = ("paper", "rsuper")


def flat(probability: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, logit(probability), dtype=torch.float64)


def silent(**options) -> ReportSupervisedLoss:
    """The loss without its attenuation term."""
    return ReportSupervisedLoss(**{"attenuation_weight": 0.0, **options})


def seg_gradient(findings: Findings, regions, shape, labels=None, unknown=None, **options) -> torch.Tensor:
    """The gradient of the segmentation term alone, at p = 0.3 everywhere."""
    leaf = flat(0.3, *shape).requires_grad_()
    labels = torch.zeros(shape) if labels is None else labels
    criterion = silent(report_weight=0.0, **options)
    criterion(leaf, findings, regions, UNIT, labels=labels, unknown=unknown)["total"].backward()
    return leaf.grad


@pytest.mark.parametrize("recipe", RECIPES)
def test_heads_and_weights(recipe):
    """Ball on the final head, volume on the others, segmentation on all, each with its weights."""
    s = scene()
    heads = [random_logits(2, 3, 9, 14, 11, seed=n) for n in range(3)]
    criterion = silent(
        recipe=recipe,
        head_weights=(0.5, 0.3, 0.2),
        segmentation_weight=2.0,
        report_weight=0.4,
        volume_weight=3.0,
        ball_bce_weight=5.0,
        ball_dice_weight=7.0,
    )
    losses = criterion(heads, s.findings, s.regions, s.spacing)
    volumes = [volume_loss(head, s.findings, s.regions, s.spacing, recipe=recipe) for head in heads]
    bce, dice = ball_loss(heads[0], s.findings, s.regions, s.spacing, recipe=recipe)
    assert set(losses) == {"total", "volume", "ball_bce", "ball_dice"}
    torch.testing.assert_close(losses["volume"], 0.4 * 3 * (0.3 * volumes[1] + 0.2 * volumes[2]))
    torch.testing.assert_close(losses["ball_bce"], 0.4 * 5 * 0.5 * bce)
    torch.testing.assert_close(losses["ball_dice"], 0.4 * 7 * 0.5 * dice)
    # without findings and with every plane annotated, the segmentation term is the plain one
    labels = s.labels
    planes = {(b, c) for b in range(2) for c in range(3)}
    plain = criterion(heads, Findings(batch_size=2, channels=3, annotated=planes), None, s.spacing, labels=labels)
    expected = 2 * sum(
        weight * segmentation_loss(head, labels, recipe=recipe)
        for weight, head in zip((0.5, 0.3, 0.2), heads, strict=True)
    )
    torch.testing.assert_close(plain["segmentation"], expected)


def test_total_is_the_sum_of_its_parts():
    s = scene()
    for heads in (s.logits, [s.logits, s.logits]):
        losses = ReportSupervisedLoss()(heads, s.findings, s.regions, s.spacing, ct=s.ct, labels=s.labels)
        assert set(losses) == {"total", "segmentation", "volume", "ball_bce", "ball_dice", "attenuation"}
        total = losses.pop("total")
        torch.testing.assert_close(total, sum(losses.values()).to(total.dtype))


def test_published_weights_are_the_defaults():
    """One head weighs 1, two weigh 0.5 each; segmentation 1, reports 0.1, attenuation 0.01."""
    s = scene()
    volume = volume_loss(s.logits, s.findings, s.regions, s.spacing)
    segmentation = silent(report_weight=0.0)(s.logits, s.findings, s.regions, s.spacing, labels=s.labels)["total"]
    arguments = (s.findings, s.regions, s.spacing)
    one = silent()(s.logits, *arguments, labels=s.labels)
    two = silent()([s.logits, s.logits], *arguments, labels=s.labels)
    torch.testing.assert_close(one["volume"], 0.1 * volume)
    torch.testing.assert_close(two["volume"], 0.5 * 0.1 * volume)
    torch.testing.assert_close(two["ball_bce"], 0.5 * one["ball_bce"])
    torch.testing.assert_close(one["segmentation"], segmentation)
    torch.testing.assert_close(two["segmentation"], segmentation)
    weighed = [
        ReportSupervisedLoss(attenuation_delta=20.0, **weight)(s.logits, *arguments, ct=s.ct)["attenuation"].item()
        for weight in ({}, {"attenuation_weight": 1.0})
    ]
    assert weighed[0] == pytest.approx(0.01 * weighed[1])
    assert weighed[1] > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_head_takes_gradient_from_its_own_terms(recipe):
    s = scene()
    heads = [random_logits(2, 3, 9, 14, 11, seed=n).requires_grad_() for n in range(2)]
    losses = silent(recipe=recipe)(heads, s.findings, s.regions, s.spacing, labels=s.labels)
    reached = {
        name: [
            grad is not None and bool(grad.any())
            for grad in torch.autograd.grad(losses[name], heads, retain_graph=True, allow_unused=True)
        ]
        for name in losses
    }
    assert reached == {
        "total": [True, True],
        "segmentation": [True, True],
        "volume": [False, True],
        "ball_bce": [True, False],
        "ball_dice": [True, False],
    }


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_findings_and_no_labels_still_train(recipe):
    findings = Findings(batch_size=1, channels=2)
    leaf = random_logits(1, 2, 5, 6, 7).requires_grad_()
    losses = ReportSupervisedLoss(recipe)(leaf, findings, None, UNIT)
    assert all(value.item() == 0 for value in losses.values())
    losses["total"].backward()
    assert not leaf.grad.any()
    nothing = silent(report_weight=0.0)(leaf, findings, None, UNIT)
    assert nothing == {"total": torch.zeros(())}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_losses_are_in_single_precision_or_better(dtype):
    s = scene(dtype=dtype)
    losses = ReportSupervisedLoss()(s.logits, s.findings, s.regions, s.spacing, ct=s.ct.float(), labels=s.labels)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert losses["total"].dtype == expected
    assert {value.dtype for value in losses.values()} <= {torch.float32, expected}


@pytest.mark.parametrize("recipe", RECIPES)
def test_annotated_planes_learn_from_labels_alone(recipe):
    """Sample 0 is annotated: its report says something else than its labels, and is not listened to."""
    shape = (2, 1, 6, 7, 8)
    groups = (FindingGroup(0, 0, 1, (Tumour((4.0,)),)), FindingGroup(1, 0, 1, (Tumour((4.0,)),)))
    findings = Findings(groups, batch_size=2, annotated={(0, 0)})
    regions, labels = torch.ones(2, 6, 7, 8, dtype=torch.int64), random_mask(*shape)
    leaf = random_logits(*shape).requires_grad_()
    losses = silent(recipe=recipe)([leaf, leaf], findings, regions, UNIT, labels=labels)
    reports = losses["volume"] + losses["ball_bce"] + losses["ball_dice"]
    (grad,) = torch.autograd.grad(reports, leaf, retain_graph=True)
    assert not grad[0].any()
    assert grad[1].any()
    (grad,) = torch.autograd.grad(losses["segmentation"], leaf)
    assert (grad[0] != 0).all()


def test_segmentation_knows_what_reports_settle():
    """Channel by channel: annotated, negative, negative of a region, not mentioned, an organ (never a tumour)."""
    regions = box_mask((4, 4, 20), (0, 4), (0, 4), (0, 6))[None].int()
    findings = Findings(
        (FindingGroup(0, 1), FindingGroup(0, 2, 1)), channels=5, lesion_channels=(0, 1, 2, 3), annotated={(0, 0)}
    )
    grad = seg_gradient(findings, regions, (1, 5, 4, 4, 20))[0]
    assert (grad[0] > 0).all()
    assert (grad[1] > 0).all()
    assert torch.equal(grad[2] > 0, regions[0].bool())
    assert not grad[3].any()
    assert (grad[4] > 0).all()


def test_a_negative_region_beside_a_reported_one_is_all_background():
    """A report that describes tumours lists all of them: outside S+ everything is known."""
    regions = torch.zeros(1, 4, 4, 40, dtype=torch.int64)
    regions[..., :4], regions[..., 30:] = 1, 2
    findings = Findings((FindingGroup(0, 0, 1, (Tumour((3.0,)),)), FindingGroup(0, 0, 2)))
    grad = seg_gradient(findings, regions, (1, 1, 4, 4, 40))[0, 0]
    assert not grad[..., :19].any()  # 3 + 15
    assert (grad[..., 19:] > 0).all()


@pytest.mark.parametrize("margin", [0.0, 4.0, 15.0])
def test_the_rim_is_never_taught_both_ways(margin):
    """Wherever the ball loss may raise a voxel, the segmentation term does not lower it."""
    shape = (8, 12, 24)
    regions = box_mask(shape, (2, 6), (3, 9), (2, 7))[None].int()
    findings = Findings((FindingGroup(0, 0, 1, (Tumour((5.0,)),)),))
    # brightest in the rim
    logits = torch.where(ball_mask(shape, (4, 6, 9), 2.5), 1.0, -2.0).double()[None, None].requires_grad_()
    losses = silent(region_margin=margin)(logits, findings, regions, UNIT, labels=torch.zeros(1, 1, *shape))
    (taught,) = torch.autograd.grad(losses["segmentation"], logits, retain_graph=True)
    (placed,) = torch.autograd.grad(losses["ball_bce"], logits)
    assert (placed < 0).any()
    assert not ((placed < 0) & (taught > 0)).any()


def test_unknown_voxels_are_not_background():
    """What the caller marks unknown, and two voxels around it, neither the segmentation nor the ball loss lowers."""
    shape = (1, 1, 7, 7, 30)
    unknown = torch.zeros(shape)
    unknown[0, 0, 3, 3, 24] = 1
    trusted = known_voxels(unknown)
    assert torch.equal(seg_gradient(Findings((FindingGroup(0, 0),)), None, shape, unknown=unknown) > 0, trusted)
    leaf = flat(0.3, *shape).requires_grad_()
    silent(volume_weight=0.0)(leaf, Findings((FindingGroup(0, 0),)), None, UNIT, unknown=unknown)["total"].backward()
    assert torch.equal(leaf.grad > 0, trusted)


def test_forty_tumours_over_several_organs():
    regions = torch.zeros(1, 16, 16, 24, dtype=torch.int64)
    regions[..., :12], regions[..., 12:] = 1, 2
    groups = [
        FindingGroup(0, 0, 1 + n % 2, (Tumour((2.0 + 0.1 * n,), attenuation=("hypo", "iso", "hyper")[n % 3]),))
        for n in range(40)
    ]
    findings = Findings(groups)
    ct = random_logits(1, 1, 16, 16, 24, scale=40)
    for recipe in RECIPES:
        leaf = random_logits(1, 1, 16, 16, 24, dtype=torch.float32).requires_grad_()
        losses = ReportSupervisedLoss(recipe)(leaf, findings, regions, UNIT, ct=ct, labels=torch.zeros_like(leaf))
        assert losses["total"].isfinite()
        losses["total"].backward()
        assert leaf.grad.isfinite().all()
        assert (leaf.grad < 0).any()


@pytest.mark.parametrize("heads", [1, 2])
def test_learns_a_tumour_from_its_report(heads):
    """A faint blob of 268 mm3 in a report of 8 mm: descent on the losses alone segments it and empties the rest."""
    shape = (14, 15, 16)
    truth = ball_mask(shape, (6, 7, 8), 4.0)
    start = torch.where(truth, -1.0, -2.0).double() + random_logits(*shape, scale=0.3)
    leaves = [start.expand(1, 1, *shape).clone().requires_grad_() for _ in range(heads)]
    findings = Findings((FindingGroup(0, 0, None, (Tumour((8.0,)),)),))
    criterion = silent(report_weight=1.0)
    optimiser = torch.optim.Adam(leaves, lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        criterion(leaves, findings, None, UNIT)["total"].backward()
        optimiser.step()
    found = leaves[0][0, 0] > 0
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert dice > 0.8
    for leaf in leaves:
        if heads == 1 or leaf is not leaves[0]:
            # the dead zone of 268 mm3: from 241 to where (P - Y) / (P + Y + 500) = 27 / 1009, 290
            assert 238 < leaf.sigmoid().sum().item() < 293


def test_pseudo_masks_of_the_total_are_those_of_the_ball_loss():
    s = scene()
    targets = pseudo_masks(s.logits, s.findings, s.regions, s.spacing)
    assert list(zip(targets.sample, targets.channel, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    leaf = s.logits.clone().requires_grad_()
    silent()([leaf, s.logits], s.findings, s.regions, s.spacing)["total"].backward()
    core = targets.core
    assert torch.equal(leaf.grad[targets.sample, targets.channel] < 0, core)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": []}, "heads: expected at least one tensor of logits, got none"),
        ({"heads": [torch.zeros(2, 3, 9, 14, 11)] * 3}, "heads: head_weights has 2 weights, and 3 heads came"),
        (
            {"heads": [torch.zeros(2, 3, 9, 14, 11), torch.zeros(2, 3, 4, 7, 5)]},
            r"heads\[1\]: expected \(B, C, D, H, W\) = \(2, 3, 9, 14, 11\), got shape \(2, 3, 4, 7, 5\)",
        ),
        (
            {"heads": [torch.zeros(2, 3, 9, 14, 11), torch.zeros(2, 3, 9, 14, 11, device="meta")]},
            r"heads\[1\]: expected on the device of heads\[0\] \(cpu\), got meta",
        ),
        ({"labels": torch.zeros(2, 9, 14, 11)}, r"labels: expected \(B, C, D, H, W\) = .*, got shape \(2, 9, 14, 11\)"),
        ({"labels": torch.zeros(2, 3, 9, 14, 11, device="meta")}, r"labels: .* device of heads\[0\] \(cpu\), got meta"),
        (
            {"unknown": torch.zeros(2, 9, 14, 11)},
            r"unknown: expected \(B, C, D, H, W\) = .*, got shape \(2, 9, 14, 11\)",
        ),
        (
            {"unknown": torch.zeros(2, 3, 9, 14, 11, device="meta")},
            r"unknown: .* device of heads\[0\] \(cpu\), got meta",
        ),
    ],
    ids=["no heads", "weights", "head shape", "head device", "labels", "labels device", "unknown", "unknown device"],
)
def test_refusals(changes, message):
    s = scene(dtype=torch.float32)
    arguments = {"heads": [s.logits] * 2, "findings": s.findings, "regions": s.regions, "spacing": s.spacing}
    with pytest.raises(ValueError, match=message):
        silent(head_weights=(0.5, 0.5))(**(arguments | changes))


def test_check_names_the_head():
    s = scene()
    spoilt = s.logits.clone()
    spoilt[0, 1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"heads\[1\]: NaN or infinity in sample 0, lesion b$"):
        silent(check=True)([s.logits, spoilt], s.findings, s.regions, s.spacing)
    # by default nothing waits for the device, and the NaN reaches the loss
    assert silent()([s.logits, spoilt], s.findings, s.regions, s.spacing)["total"].isnan()


def test_repr_tells_the_options():
    text = repr(ReportSupervisedLoss("rsuper", tolerance=0.25, report_weight=0.3))
    assert "tolerance=0.25" in text
    assert "report_weight=0.3" in text
