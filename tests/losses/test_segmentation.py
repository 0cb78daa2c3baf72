# SPDX-License-Identifier: Apache-2.0
"""The segmentation term: masked cross-entropy and adaptive Dice."""

import math

import pytest
import torch

from rsuper_kernels import SegmentationLoss, known_voxels, segmentation_loss
from rsuper_kernels.losses.segmentation import segmentation_terms
from rsuper_kernels.ops.curves import adaptive_dice
from tests.helpers import (
    LAYOUTS,
    LOW_PRECISION,
    assert_low_precision,
    assert_repeatable,
    ball_mask,
    logit,
    random_logits,
    random_mask,
    value_and_grad,
)

SHAPE = (2, 3, 5, 7, 6)
RECIPES = ("paper", "rsuper")


def row(*probabilities: float) -> torch.Tensor:
    return torch.tensor([logit(p) for p in probabilities], dtype=torch.float64).reshape(1, 1, 1, 1, -1)


def test_by_hand():
    """p = 0.8 0.4 0.5 0.3, targets 1 0 1 1, the last unknown.

    BCE (0.22314 + 0.51083 + 0.69315) / 4 (unknown voxels count in the mean); tp 1.3, fp 0.4, fn 0.7,
    alpha = 0.4 / 1.1: dice = 1 - 1.3 / (1.3 + 0.36364 * 0.4 + 0.63636 * 0.7).
    """
    labels, known = torch.tensor([1, 0, 1, 1]).reshape(1, 1, 1, 1, 4), torch.tensor([1, 1, 1, 0]).reshape(1, 1, 1, 1, 4)
    bce, dice = segmentation_terms(row(0.8, 0.4, 0.5, 0.3), labels, known)
    assert bce.item() == pytest.approx(1.42712 / 4, abs=1e-5)
    assert dice.item() == pytest.approx(1 - 1.3 / (1.3 + 0.145455 + 0.445455), abs=1e-5)


@pytest.mark.parametrize(
    ("fp", "fn", "alpha"),
    [(30.0, 10.0, 0.75), (10.0, 30.0, 0.25), (99.0, 1.0, 0.8), (1.0, 99.0, 0.2), (0.0, 0.0, 0.2)],
)
def test_dice_weighs_the_more_frequent_error(fp, fn, alpha):
    sums = [torch.tensor([[value]], dtype=torch.float64) for value in (20.0, fp, fn)]
    assert adaptive_dice(*sums).item() == pytest.approx(1 - 20 / (20 + alpha * fp + (1 - alpha) * fn), abs=1e-6)


def test_dice_shares_alpha_over_the_batch_and_not_over_channels():
    tp, fp, fn = (
        torch.tensor(v, dtype=torch.float64) for v in ([[5.0, 5], [5, 5]], [[9.0, 1], [1, 1]], [[1.0, 3], [9, 3]])
    )
    # channel 0: fp 10, fn 10; channel 1: fp 2, fn 6
    expected = [[1 - 5 / (5 + 5), 1 - 5 / (5 + 0.25 + 2.25)], [1 - 5 / (5 + 5), 1 - 5 / (5 + 0.25 + 2.25)]]
    torch.testing.assert_close(
        adaptive_dice(tp, fp, fn), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0
    )
    alone = adaptive_dice(tp, fp, fn, dim=None)[0, 0].item()
    assert alone == pytest.approx(1 - 5 / (5 + 0.8 * 9 + 0.2 * 1), abs=1e-5)


def test_alpha_takes_gradient():
    sums = [torch.tensor([[v]], dtype=torch.float64, requires_grad=True) for v in (20.0, 12.0, 18.0)]
    assert torch.autograd.gradcheck(adaptive_dice, sums)


def test_empty_planes_leave_the_mean_or_count_as_one():
    """Channel 0 has a perfect and channel 1 no target: mean of one, or of a small and a constant 1."""
    logits = torch.cat([row(0.9, 0.1, 0.9, 0.1), row(0.5, 0.5, 0.5, 0.5)], 1)
    labels = torch.zeros(1, 2, 1, 1, 4)
    labels[0, 0, 0, 0, ::2] = 1
    dice = 1 - 1.8 / (1.8 + 0.5 * 0.2 + 0.5 * 0.2)
    for recipe, expected in (("paper", dice), ("rsuper", (dice + 1) / 2)):
        assert segmentation_terms(logits, labels, recipe=recipe)[1].item() == pytest.approx(expected, abs=1e-5)


def test_class_weights_weigh_samples_and_channels():
    """BCE and Dice of one channel at a time are its share of the sum."""
    logits, labels = random_logits(*SHAPE), random_mask(*SHAPE)
    parts = []
    for plane in range(6):
        weights = torch.zeros(2, 3)
        weights.view(-1)[plane] = 3.0
        parts.append(segmentation_loss(logits, labels, class_weights=weights))
    torch.testing.assert_close(sum(parts), 3 * segmentation_loss(logits, labels))
    assert segmentation_loss(logits, labels, class_weights=torch.zeros(2, 3)).item() == 0


def test_known_voxels_stay_two_voxels_away():
    """Unknown at (3, 3, 3): the 81-voxel ball of radius 2.5 around it is not trusted."""
    unknown = torch.zeros(1, 1, 7, 7, 7)
    unknown[0, 0, 3, 3, 3] = 1
    known = known_voxels(unknown)
    assert int((~known).sum()) == 81
    assert torch.equal(known[0, 0], ~ball_mask((7, 7, 7), (3, 3, 3), 2.5))


@pytest.mark.parametrize("recipe", RECIPES)
def test_unknown_voxels_take_no_part(recipe):
    logits, labels, known = random_logits(*SHAPE), random_mask(*SHAPE), random_mask(*SHAPE, seed=1)
    loss, grad = value_and_grad(lambda x: segmentation_loss(x, labels, known, recipe=recipe), logits)
    assert not grad[~known].any()
    changed = torch.where(known, logits, 9.0)
    assert segmentation_loss(changed, labels ^ ~known, known, recipe=recipe).item() == pytest.approx(loss.item())


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_known(recipe):
    nothing = torch.zeros(SHAPE)
    loss, grad = value_and_grad(lambda x: segmentation_loss(x, nothing, nothing, recipe=recipe), random_logits(*SHAPE))
    # the mean is a sum of shares, each rounded
    assert loss.item() == pytest.approx(1 if recipe == "rsuper" else 0, abs=1e-15)
    assert not grad.any()


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradient_lowers_background_and_raises_targets(recipe):
    labels = random_mask(*SHAPE)
    _, grad = value_and_grad(lambda x: segmentation_loss(x, labels, recipe=recipe).abs(), random_logits(*SHAPE))
    sign = torch.where(labels, -1.0, 1.0) * grad.sign()
    assert (sign == sign.flatten()[0]).all()


@pytest.mark.parametrize("size", [60.0, 1e4])
@pytest.mark.parametrize("recipe", RECIPES)
def test_extreme_logits(size, recipe):
    labels = random_mask(*SHAPE)
    for sign in (1, -1):
        logits = torch.where(labels, sign * size, -sign * size)
        loss, grad = value_and_grad(lambda x: segmentation_loss(x, labels, recipe=recipe), logits)
        assert grad.isfinite().all()
        # all right: nothing is lost; all wrong: every voxel costs `size`, and no Dice is left
        assert loss.item() == pytest.approx(0 if sign > 0 else size + 1, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradcheck(recipe):
    labels, known = random_mask(1, 2, 2, 3, 2), random_mask(1, 2, 2, 3, 2, density=0.8, seed=1)
    logits = random_logits(1, 2, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels, known, recipe=recipe), logits)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(dtype):
    labels = random_mask(2, 3, 9, 11, 7)
    assert_low_precision(lambda x: segmentation_loss(x, labels), random_logits(2, 3, 9, 11, 7), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout):
    logits, labels, known = random_logits(*SHAPE), random_mask(*SHAPE), random_mask(*SHAPE, seed=1)
    expected = segmentation_loss(logits, labels, known)
    torch.testing.assert_close(segmentation_loss(*map(layout, (logits, labels, known))), expected)


def test_deterministic():
    labels = random_mask(2, 3, 9, 11, 7)
    assert_repeatable(lambda x: segmentation_loss(x, labels), random_logits(2, 3, 9, 11, 7, dtype=torch.float32))


def test_module_is_the_function():
    logits, labels, known, weights = random_logits(*SHAPE), random_mask(*SHAPE), random_mask(*SHAPE), torch.rand(2, 3)
    for recipe in RECIPES:
        expected = segmentation_loss(logits, labels, known, class_weights=weights, recipe=recipe)
        assert torch.equal(SegmentationLoss(recipe)(logits, labels, known, weights), expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": torch.ones(SHAPE).int()}, TypeError, "logits: expected a floating-point tensor .* got torch.int32"),
        (
            {"logits": torch.ones(3, 5, 7, 6)},
            ValueError,
            r"logits: expected \(B, C, D, H, W\), got shape \(3, 5, 7, 6\)",
        ),
        (
            {"labels": torch.ones(2, 5, 7, 6)},
            ValueError,
            r"labels: expected .* = \(2, 3, 5, 7, 6\), got shape \(2, 5, 7, 6\)",
        ),
        ({"known": torch.ones(2, 1, 5, 7, 6)}, ValueError, r"known: expected .* = \(2, 3, 5, 7, 6\), got"),
        ({"labels": torch.ones(SHAPE, device="meta")}, ValueError, r"labels: .* device of logits \(cpu\), got meta"),
        ({"known": torch.ones(SHAPE, device="meta")}, ValueError, r"known: .* device of logits \(cpu\), got meta"),
        (
            {"class_weights": torch.ones(3)},
            ValueError,
            r"class_weights: expected \(B, C\) = \(2, 3\), got shape \(3,\)",
        ),
        ({"class_weights": torch.ones(2, 3, device="meta")}, ValueError, r"class_weights: .* \(cpu\), got meta"),
        ({"recipe": "nnunet"}, ValueError, "recipe: expected one of paper, rsuper or a Recipe, got 'nnunet'"),
        (
            {"logits": torch.full(SHAPE, math.nan), "check": True},
            ValueError,
            "logits: NaN or infinity in sample 0, channel 0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_refusals(changes, error, message):
    with pytest.raises(error, match=message):
        segmentation_loss(**({"logits": torch.ones(SHAPE), "labels": torch.ones(SHAPE)} | changes))
