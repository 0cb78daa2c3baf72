# SPDX-License-Identifier: Apache-2.0
"""The total loss of compat and the losses of its baselines."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from rsuper_kernels import compat
from tests.compat_cases import CLASSES, brute_dilate, mixed_batch


def loss_arguments(**changes):
    fields = {
        "loss": "ball_dice_last",
        "aux_weight": [0.5, 0.5],
        "seg_loss": 1.0,
        "report_volume_loss_basic": 0.1,
        "volume_loss_tolerance": 0.2,
        "ball_bce_weight": 1.0,
        "ball_dice_weight": 1.0,
        "ball_volume_margin": 0.2,
        "stardard_ce_ball": False,
        "multi_ch_tumor": False,
    }
    return SimpleNamespace(**fields | changes)


def total(heads, args, **changes):
    out, labels, unknown, segment, volumes, diameters = mixed_batch()
    labels = labels * (1 - brute_dilate(unknown, 5))
    head = out.clone().requires_grad_()
    output = {"segmentation": head if heads == 0 else [head] * heads}
    inputs = {"label": labels, "unk_voxels": unknown, "chosen_segment_mask": segment, "tumor_volumes_report": volumes}
    inputs |= {"model_output": output, "matcher": None, "tumor_diameters": diameters, "classes": CLASSES} | changes
    return compat.calculate_loss(args=args, **inputs)


@pytest.mark.parametrize(
    ("name", "heads", "ball", "volume"),
    [
        ("ball_dice_last", 2, 0.5, 0.5),
        ("dice", 2, 0, 1.0),
        ("ball", 2, 1.0, 0),
        ("ball_dice", 2, 1.0, 0),
        ("ball_dice_last_both", 2, 0.5, 1.0),
        ("ball_dice_last", 0, 1.0, 0),
        ("ball_dice_last", 1, 0.5, 0),
        ("dll_last", 2, 0.5, 0.5),
        ("dynamic_both", 3, 1.2, 1.2),
    ],
)
def test_which_losses_apply(name, heads, ball, volume):
    losses = total(heads, loss_arguments(loss=name, aux_weight=[0.5, 0.5, 0.2]))
    out, labels, unknown, segment, volumes, diameters = mixed_batch()
    labels = labels * (1 - brute_dilate(unknown, 5))
    expected = {}
    if ball:
        expected |= compat.ball_loss(out, labels, unknown, segment, volumes, diameters, CLASSES, "dice" in name)
    if volume:
        expected |= compat.volume_loss_basic(out, segment, volumes, labels, unknown, CLASSES, tolerance=0.2)
    assert losses.keys() == {"segmentation", "overall", *expected}
    for key, value in expected.items():
        torch.testing.assert_close(losses[key].detach(), value * 0.1 * (volume if "volume" in key else ball))
    torch.testing.assert_close(losses["overall"], sum(value for key, value in losses.items() if key != "overall"))


def test_total_weights_and_classification():
    plain, changed = (
        total(2, loss_arguments(**options))
        for options in (
            {},
            {"seg_loss": 2.0, "ball_bce_weight": 3.0, "ball_dice_weight": 5.0, "report_volume_loss_basic": 0.2},
        )
    )
    for key, factor in (("segmentation", 2), ("ball_loss_bce", 6), ("ball_loss_dice", 10), ("dice_volume_loss", 2)):
        torch.testing.assert_close(changed[key], plain[key] * factor)
    head = mixed_batch()[0].requires_grad_()
    answers = torch.zeros(3, 3, requires_grad=True)
    losses = total(
        0, loss_arguments(classification_branch=True), model_output={"segmentation": head, "classification": answers}
    )
    # of nine answers, two are about a chosen or labelled lesion, one about an absent one with unknown voxels
    assert losses["classification"].item() == pytest.approx(math.log(2) * 8 / 9)


def test_masks_only():
    losses = total(2, loss_arguments(report_volume_loss_basic=0), unk_voxels=None, chosen_segment_mask=None)
    assert losses.keys() == {"segmentation", "report", "overall"}
    assert losses["report"] == 0
    assert losses["overall"] == losses["segmentation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unk_voxels": None}, "unk_voxels: expected unknown voxels in sample 0, which has a chosen segment, got None"),
        ({"unk_voxels": torch.zeros(3, 4, 17, 20, 18)}, "unk_voxels: expected unknown voxels in sample 0"),
        ({"tumor_volumes_report": torch.zeros(3, 10)}, "tumor_volumes_report: expected a volume in sample 0"),
        ({"classes": CLASSES[:3]}, "label: expected .B, 3, H, W, D. for 3 classes"),
        ({"class_weights": torch.ones(3, 3)}, "class_weights: expected .B, C. = .3, 4."),
        (
            {"label": torch.ones(3, 4, 17, 20, 18)},
            "unk_voxels: expected no unknown voxel within 2 voxels of a positive label, sample 0",
        ),
        ({"chosen_segment_mask": None}, "chosen_segment_mask, unk_voxels: expected both"),
        ({"model_output": {"segmentation": torch.zeros(3, 4, 17, 20, 18)}}, "overall: expected a loss with a gradient"),
        (
            {"model_output": {"segmentation": torch.full((3, 4, 17, 20, 18), torch.nan)}},
            "NaN in sample 0, channel 0 .kidney_lesion_1.",
        ),
        ({"model_output": {"segmentation": []}}, "args.aux_weight: expected a weight for each of 0 heads"),
    ],
)
def test_total_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        total(2, loss_arguments(), **changes)


@pytest.mark.parametrize(
    "changes",
    [{"matcher": object()}, {"clip_only": True}, {"report_embeddings": torch.ones(3, 768)}],
    ids=lambda c: next(iter(c)),
)
def test_dead_branches_are_refused(changes):
    with pytest.raises(NotImplementedError, match=next(iter(changes))):
        total(2, loss_arguments(), **changes)
    with pytest.raises(NotImplementedError, match="multi_ch_tumor"):
        total(2, loss_arguments(multi_ch_tumor=True))
    with pytest.raises(NotImplementedError, match="single_class"):
        compat.ball_loss(*mixed_batch(), CLASSES, True, single_class=True)


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out, labels, unknown, segment, volumes, diameters = mixed_batch()
    args = loss_arguments()
    labels = labels * (1 - brute_dilate(unknown, 5))
    compat.calculate_loss(
        {"segmentation": [out.requires_grad_(), out]}, labels, unknown, args, None, segment, volumes, diameters, CLASSES
    )
    compat.get_known_voxels(labels, unknown)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_classification_loss():
    classes = ["kidney_lesion", "liver", "liver_lesion"]
    label, unknown, chosen = (torch.zeros(2, 3, 2, 2, 2) for _ in range(3))
    label[0, 0, 0] = chosen[1, 2, 1] = unknown[1] = 1
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    expected = F.softplus(torch.tensor([-0.5, -1.0, -0.3])).sum() / 4
    torch.testing.assert_close(compat.classification_loss(logits, label, unknown, None, chosen, classes), expected)
    with pytest.raises(ValueError, match="cls_out: expected"):
        compat.classification_loss(torch.zeros(2, 3), label, unknown, None, chosen, classes)
    with pytest.raises(ValueError, match="class_weights: expected"):
        compat.classification_loss(logits, label, unknown, None, chosen, classes, torch.ones(2, 3))


def test_info_nce():
    query, positive = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    negatives = torch.randn(4, 5, 6, dtype=torch.float64)
    q, p = F.normalize(query, dim=1), F.normalize(positive, dim=1)
    similar = (q @ p.T / 0.1).softmax(1).diagonal().log()
    torch.testing.assert_close(compat.info_nce(query, positive), -similar.mean())
    torch.testing.assert_close(compat.info_nce(query, positive, reduction="none"), -similar)
    shared = compat.info_nce(query, positive, negatives[0], temperature=0.5)
    paired = compat.info_nce(query, positive, negatives[:1].expand(4, 5, 6), temperature=0.5, negative_mode="paired")
    torch.testing.assert_close(shared, paired)
    for changes, message in (
        ({"reduction": "max"}, "reduction"),
        ({"negative_mode": "other"}, "negative_mode"),
        ({"negative_keys": negatives}, "negative_keys: expected .M, E."),
        ({"negative_keys": negatives[:3], "negative_mode": "paired"}, "negative_keys: expected .N, M, E."),
    ):
        with pytest.raises(ValueError, match=message):
            compat.info_nce(query, positive, **changes)
    with pytest.raises(ValueError, match="positive_key"):
        compat.info_nce(query, positive[:3])


def test_model_genesis_and_merge():
    x, y = torch.rand(2, 1, 3, 3, 3), torch.rand(2, 1, 3, 3, 3)
    losses = compat.model_genesis_loss(x, y)
    assert losses.keys() == {"genesis_loss", "overall"}
    assert losses["overall"] == losses["genesis_loss"]
    torch.testing.assert_close(losses["overall"], ((x - y) ** 2).mean())
    same = compat.calculate_loss(
        {"segmentation": x}, y, None, None, None, None, None, None, ["liver"], model_genesis=True
    )
    assert same == losses
    with pytest.raises(ValueError, match="single head"):
        compat.model_genesis_loss([x], y)
    assert compat.merge_no_overlap({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    with pytest.raises(KeyError, match="'a'"):
        compat.merge_no_overlap({"a": 1}, {"a": 2})
