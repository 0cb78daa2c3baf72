# SPDX-License-Identifier: Apache-2.0
"""isolate_tumor, ball_loss and volume_loss_basic of compat: a brute-force twin, argument ranges, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from rsuper_kernels import compat
from rsuper_kernels.compat.ball import _cpu_weights
from rsuper_kernels.compat.isolate import BallRule, tumour_size
from rsuper_kernels.ops.ball_select import rank_weights
from tests.compat_cases import CLASSES, brute_dilate, brute_isolate, brute_sample, mixed_batch, smooth_noise


@pytest.mark.parametrize("gaussian", [True, False], ids=["gaussian", "flat"])
@pytest.mark.parametrize(
    ("diameter", "volume"),
    [(1.5, 2), (4, 33.5), (6.5, 90), (9, 700), (13, 1150), (5, 300)],
    ids=lambda value: str(value),
)
def test_isolate_tumor_matches_brute_force(diameter, volume, gaussian):
    x = smooth_noise(1, 19, 17, 22, seed=int(volume))[0].sigmoid()
    ours = compat.isolate_tumor(x, diameter, gaussian, 1.5, volume, 0.3, 0.4)
    theirs = brute_isolate(x, diameter, 1.5 if gaussian else None, volume, 0.3, 0.4)
    for mask, expected in zip(ours, theirs, strict=True):
        assert mask.dtype == x.dtype
        torch.testing.assert_close(mask, expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.2, 0.45])
def test_ball_loss_matches_brute_force(seed, margin):
    out, labels, unknown, segment, volumes, diameters = mixed_batch(seed)
    ours, theirs = out.clone().requires_grad_(), out.clone().requires_grad_()
    losses = compat.ball_loss(
        ours,
        labels,
        unknown,
        segment,
        volumes,
        diameters,
        CLASSES,
        True,
        margin,
        margin,
        subseg_dilation=9,
        unk_dilation=3,
    )

    def merge(x):
        return torch.stack([torch.maximum(x[:, 0], x[:, 1]), x[:, 3]], dim=1)

    region, unclear = brute_dilate(merge(segment), 9), brute_dilate(merge(unknown), 3)
    options = {"sigma": 1.5, "diameter_margin": margin, "volume_margin": margin, "background": 7}
    terms = []
    for b in range(3):
        tumours = [(float(e.max()), float(v)) for v, e in zip(volumes[b], diameters[b], strict=True) if v > 0]
        terms.append(brute_sample(merge(theirs)[b], merge(labels)[b], unclear[b], region[b], tumours, options))
    bce, dice = (torch.stack(values).mean() for values in zip(*terms, strict=True))
    torch.testing.assert_close(losses["ball_loss_bce"], bce, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses["ball_loss_dice"], dice, rtol=1e-5, atol=1e-7)
    sum(losses.values()).backward()
    (bce + dice).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * theirs.grad.abs().max().item())


def test_batch_is_the_mean_of_its_samples():
    batch = mixed_batch()
    weights = torch.tensor([[1.0, 2.0, 1.0, 0.5]] * 3)
    together = compat.ball_loss(*batch, CLASSES, True, subseg_dilation=5, class_weights=weights)
    apart = [
        compat.ball_loss(*(t[b : b + 1] for t in batch), CLASSES, True, subseg_dilation=5, class_weights=weights[:1])
        for b in range(3)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in apart]).mean())


# argument ranges


def test_weights_of_four_and_five_axes_agree():
    batch = mixed_batch()
    weights = torch.rand(3, 4)
    for loss in (
        lambda w: compat.ball_loss(*batch, CLASSES, True, subseg_dilation=5, class_weights=w)["ball_loss_bce"],
        lambda w: compat.volume_loss_basic(batch[0], batch[3], batch[4], batch[1], batch[2], CLASSES, class_weights=w)[
            "dice_volume_loss"
        ],
        lambda w: compat.DiceLossMultiClass(batch[0], batch[1], 1 - batch[2], class_weights=w),
    ):
        torch.testing.assert_close(loss(weights), loss(weights[:, :, None, None, None]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64], ids=str)
def test_masks_of_any_dtype(dtype):
    out, *masks, volumes, diameters = mixed_batch()
    losses = [
        compat.ball_loss(out, *as_given, volumes, diameters, CLASSES, True, subseg_dilation=5)
        for as_given in (masks, [mask.to(dtype) for mask in masks])
    ]
    assert losses[0] == losses[1]
    labels, _, segment = masks
    expected, got = (
        compat.volume_loss_basic(out, s, volumes, l, None, CLASSES)["dice_volume_loss"]
        for s, l in ((segment, labels), (segment.to(dtype), labels.to(dtype)))
    )
    assert expected == got


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_logits_of_any_float_dtype(dtype):
    out, *rest = mixed_batch()
    rounded = out.to(dtype)
    results = []
    for logits in (rounded.clone().requires_grad_(), rounded.to(torch.float64).requires_grad_()):
        losses = compat.ball_loss(logits, *rest, CLASSES, True, subseg_dilation=5, gwrp=False)
        loss = (
            sum(losses.values())
            + compat.volume_loss_basic(logits, rest[2], rest[3], rest[0], None, CLASSES)["dice_volume_loss"]
        )
        loss.backward()
        results.append((loss, logits.grad))
    (loss, gradient), (expected, reference) = results
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), reference, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_lower_tumour_count_than_padding_and_more_than_ten():
    out, labels, unknown, segment, volumes, diameters = mixed_batch()
    wide = F.pad(volumes, (5, 20)), F.pad(diameters, (0, 0, 5, 20))
    expected = compat.ball_loss(out, labels, unknown, segment, volumes, diameters, CLASSES, True)
    assert compat.ball_loss(out, labels, unknown, segment, *wide, CLASSES, True) == expected


def test_rank_weights_on_the_cpu_and_elsewhere_agree():
    # steps that float32 holds beside 1, so that the public key has no ties
    probability = torch.randperm(8000).reshape(1, 20, 20, 20) / 8192
    mask = probability > 0.1
    weights = rank_weights(probability, mask, [8000], concentration=0.5)
    torch.testing.assert_close(_cpu_weights(probability[0], mask[0], 0.5), weights[mask], rtol=2e-6, atol=0)


def test_volume_counts_round_as_float32_only_where_the_ball_decides():
    # 0.85 * 1188 = 1009.8; 1.15 * 100 is 114.99999999999999 in float64 and 115 in float32
    assert tumour_size(13, 600.0, 10**6, BallRule(volume_margin=0.15)).counts == (1009, 1188, 1366)
    assert tumour_size(5, 100.0, 10**6, BallRule(volume_margin=0.15)).counts == (100, 100, 114)


# what ball_loss, volume_loss_basic and isolate_tumor refuse


def test_report_tables_are_checked():
    out, labels, unknown, segment, volumes, diameters = mixed_batch()

    def refuse(message, v=volumes, d=diameters, s=segment):
        with pytest.raises(ValueError, match=message):
            compat.ball_loss(out, labels, unknown, s, v, d, CLASSES, True)

    for bad in (-5.0, math.nan):
        wrong = volumes.clone()
        wrong[2, 0] = bad
        refuse("tumour 0 of sample 2", v=wrong)
    wrong = diameters.clone()
    wrong[0, 4] = 3
    refuse("tumour 4 of sample 0, got 0.0 mm3", d=wrong)
    refuse(r"tumor_diameters: expected \(B, T, 3\)", d=diameters[:, :9])
    wrong = segment.clone()
    wrong[0, 0, 0, 0, 0] = 1
    refuse("sample 0 has kidney_lesion, liver_lesion", s=wrong)
    refuse("chosen_segment_mask: expected", s=segment[:, :, 1:])
    wrong = diameters.clone()
    wrong[2, 0], volumes[2, 0] = 60, 113_000
    refuse("sample 2, kidney_lesion: expected a ball of more than half", d=wrong)
    volumes[2, 0] = 200_000
    refuse("sample 2, kidney_lesion: expected at most 1.2 times", d=wrong)


def test_isolate_tumor_refuses():
    x = torch.rand(9, 9, 9)
    for bad in (x - 1, x * math.nan):
        with pytest.raises(ValueError, match="x: expected probabilities of at least 0"):
            compat.isolate_tumor(bad, 3, True, 1.5, 14)
    for diameter, volume in ((0, 5), (math.nan, 5), (3, -1), (3, math.inf)):
        with pytest.raises(ValueError, match="expected a positive diameter"):
            compat.isolate_tumor(x, diameter, True, 1.5, volume)
    with pytest.raises(ValueError, match=r"x: expected \(H, W, D\)"):
        compat.isolate_tumor(x[None], 3, True, 1.5, 14)


def test_volume_loss_refuses():
    out, labels, unknown, segment, volumes, _ = mixed_batch()
    with pytest.raises(ValueError, match="got None"):
        compat.volume_loss_basic(out, None, volumes, labels, unknown, CLASSES)
    with pytest.raises(ValueError, match="y: expected volumes of at least 0"):
        compat.volume_loss_basic(out, segment, -volumes, labels, unknown, CLASSES)
    with pytest.raises(ValueError, match="classes: expected the list of class names"):
        compat.volume_loss_basic(out, segment, volumes, labels, unknown)
    with pytest.raises(ValueError, match="x: expected volumes of at least 0, got nan"):
        compat.dice_based_volume_loss(torch.full((1, 1), math.nan), torch.ones(1, 1))
