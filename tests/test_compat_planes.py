# SPDX-License-Identifier: Apache-2.0
"""calculate_loss on the planes it works with: a lesion type in one channel or in two, and logits that are NaN."""

import math

import pytest
import torch

from rsuper_kernels import compat, native
from tests.compat_cases import CLASSES, brute_dilate, mixed_batch
from tests.helpers import random_mask
from tests.test_compat_training import loss_arguments

ONE = ["kidney_lesion", "liver", "liver_lesion"]
NOWHERE = -1e4  # a logit whose probability, cross-entropy and slope are 0


def merged(masks: torch.Tensor) -> torch.Tensor:
    """The two kidney lesions as one."""
    return torch.cat([masks[:, :2].amax(1, keepdim=True), masks[:, 2:]], dim=1)


def divided(tensor: torch.Tensor, part: torch.Tensor, elsewhere: float = 0) -> torch.Tensor:
    """The kidney lesion's voxels inside `part` in a first channel, the others in a second."""
    kidney, rest = tensor[:, :1], tensor[:, 1:]
    return torch.cat([torch.where(part, kidney, elsewhere), torch.where(part, elsewhere, kidney), rest], dim=1)


def problem() -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Logits (B, 3, ...) of classes ONE; label, unknown voxels and segment; volumes and diameters."""
    out, labels, unknown, segment, *reported = mixed_batch()
    labels = labels * (1 - brute_dilate(unknown, 5))
    labels[1, 0, :4, :3, :3] = 1  # a kidney lesion with labels
    return out[:, [0, 2, 3]], [merged(mask) for mask in (labels, unknown, segment)], reported


def losses_and_grads(heads, masks, reported, classes, **changes):
    leaves = [head.clone().requires_grad_() for head in heads]
    class_weights = changes.pop("class_weights", None)
    label, unknown, segment = masks
    inputs = (label, unknown, loss_arguments(**changes), None, segment, *reported, classes)
    losses = compat.calculate_loss({"segmentation": leaves}, *inputs, class_weights=class_weights)
    losses["overall"].backward()
    return {name: value.detach() for name, value in losses.items()}, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("name", ["ball_dice_last", "dice", "ball_dice_last_both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_a_lesion_in_two_channels_has_the_report_losses_of_one(name, dtype, weighted):
    """Each voxel's logit is in one of the channels: same losses, and each gradient where the logit is."""
    logits, masks, reported = problem()
    part = random_mask(3, 1, *logits.shape[2:], density=0.5)
    heads = [logits.to(dtype), logits.flip(2).to(dtype)]
    two = [divided(head, part, NOWHERE) for head in heads]
    split_masks = [divided(mask, part) for mask in masks]
    split_masks[1][:, :2] = masks[1][:, :1]  # no label lies beside an unknown voxel, whatever its channel
    weights = torch.tensor([[1.0, 3.0, 0.5]] * 3) if weighted else None
    options = {"loss": name, "seg_loss": 0.0}
    single = losses_and_grads(heads, masks, reported, ONE, class_weights=weights, **options)
    doubled = None if weights is None else weights[:, [0, 0, 1, 2]]
    double = losses_and_grads(two, split_masks, reported, CLASSES, class_weights=doubled, **options)
    assert single[0].keys() == double[0].keys()
    assert len(single[0]) > 2
    for key, value in single[0].items():
        assert torch.equal(double[0][key], value), key
        assert value > 0 or key == "segmentation"
    for got, expected in zip(double[1], single[1], strict=True):
        assert torch.equal(got, divided(expected, part))
        assert expected[:, 0].any()


def test_of_equal_logits_the_first_channel_takes_the_gradient():
    logits, masks, reported = problem()
    single = losses_and_grads([logits], masks, reported, ONE, seg_loss=0.0)
    everywhere = torch.ones(3, 1, *logits.shape[2:], dtype=torch.bool)
    twice = torch.cat([logits[:, :1], logits], dim=1)
    double = losses_and_grads([twice], [divided(mask, everywhere) for mask in masks], reported, CLASSES, seg_loss=0.0)
    assert all(torch.equal(double[0][key], value) for key, value in single[0].items())
    assert torch.equal(double[1][0], divided(single[1][0], everywhere))


def test_an_empty_channel_adds_one_to_the_sum_of_dice():
    """Four channels against three: the fourth has no cross-entropy, and the Dice 1 of an empty plane."""
    logits, masks, reported = problem()
    everywhere = torch.ones(3, 1, *logits.shape[2:], dtype=torch.bool)
    two, split_masks = divided(logits, everywhere, NOWHERE), [divided(mask, everywhere) for mask in masks]
    single = losses_and_grads([logits], masks, reported, ONE, aux_weight=[1.0], report_volume_loss_basic=0)
    double = losses_and_grads([two], split_masks, reported, CLASSES, aux_weight=[1.0], report_volume_loss_basic=0)
    torch.testing.assert_close(4 * double[0]["segmentation"], 3 * single[0]["segmentation"] + 1)
    torch.testing.assert_close(4 * double[1][0], 3 * divided(single[1][0], everywhere))


@pytest.mark.parametrize("name", ["ball_dice_last", "ball_dice_last_both"])
def test_one_pass_and_a_pass_for_each_loss_agree(name):
    """With single channels all sums come from one pass; the public functions take one each."""
    logits, (label, unknown, segment), reported = problem()
    losses, (grad,) = losses_and_grads([logits], (label, unknown, segment), reported, ONE, loss=name, aux_weight=[1.0])
    leaf = logits.clone().requires_grad_()
    report = compat.ball_loss(leaf, label, unknown, segment, *reported, ONE, True)
    if "both" in name:
        report |= compat.volume_loss_basic(leaf, segment, reported[0], label, unknown, ONE, tolerance=0.2)
    known = compat.get_known_voxels(label, unknown)
    dice = compat.DiceLossMultiClass(leaf, label, known)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(leaf, label, reduction="none") * known
    total = dice + entropy.mean() + 0.1 * sum(report.values())
    total.backward()
    torch.testing.assert_close(losses["overall"], total.detach())
    for key, value in report.items():
        torch.testing.assert_close(losses[key], 0.1 * value.detach())
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-5, atol=2e-6 * float(leaf.grad.abs().max()))


# logits that are NaN

# sample 1 has no segment, and its kidney lesion is unknown from row 10 of the first axis on
UNKNOWN_ROWS = (1, 0, slice(12, 15))


def with_nan(place, value=math.nan):
    logits, masks, reported = problem()
    logits = logits.clone()
    logits[place] = value
    return losses_and_grads([logits], masks, reported, ONE, loss="ball_dice_last_both")


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ((0, 2, 7, 7, 7), r"sample 0, channel 2 \(liver_lesion\)"),  # in the segment of a placed tumour
        ((0, 2, 0, 0, 0), r"sample 0, channel 2 \(liver_lesion\)"),  # far from it
        ((2, 0, 16, 19, 17), r"sample 2, channel 0 \(kidney_lesion\)"),
        ((1, 2, 8, 9, 9), r"sample 1, channel 2 \(liver_lesion\)"),  # of a sample without tumours
        ((0, 1, 0, 0, 0), r"sample 0, channel 1 \(liver\)"),  # of a class without lesions
        ((1, 0, 2, 9, 9), r"sample 1, channel 0 \(kidney_lesion\)"),  # known, beside unknown rows
        ((slice(None),), r"sample 0, channel 0 \(kidney_lesion\)"),
    ],
    ids=str,
)
def test_nan_where_it_counts_is_refused(place, where):
    with pytest.raises(ValueError, match=rf"segmentation\[0\]: NaN in {where}"):
        with_nan(place)


@pytest.mark.skipif(not native.available()[0], reason="the reference multiplies by 0, which leaves a NaN")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_in_rows_that_no_loss_looks_at_is_nothing(value):
    losses, (grad,) = with_nan(UNKNOWN_ROWS, value)
    expected, (expected_grad,) = with_nan(UNKNOWN_ROWS, 0.5)
    assert all(torch.equal(losses[key], expected[key]) for key in expected)
    assert torch.equal(grad, expected_grad)
    assert not grad[UNKNOWN_ROWS].any()
    assert grad.isfinite().all()


def test_nan_at_an_unknown_voxel_is_refused_or_nothing():
    """Whether a word of voxels has others that count is for the backend to know; a NaN never gets through."""
    logits, (label, unknown, segment), reported = problem()
    unknown[1] = 0
    unknown[1, 0, 8:13, 8:13, 8:13] = 1
    place, refused = (1, 0, 10, 10, 10), ""
    results = []
    for value in (0.5, math.nan):
        x = logits.clone()
        x[place] = value
        try:
            results.append(losses_and_grads([x], (label, unknown, segment), reported, ONE))
        except ValueError as error:
            refused = str(error)
    if len(results) == 1:
        assert "segmentation[0]: NaN in sample 1, channel 0 (kidney_lesion)" in refused
    else:
        assert results[0][0] == results[1][0]
        assert torch.equal(results[0][1][0], results[1][1][0])


def test_ball_loss_hands_on_what_is_nan():
    """By itself it has no check: NaN in a plane with tumours makes NaN, and in no lesion channel it is not read."""
    logits, (label, unknown, segment), reported = problem()

    def ball(place) -> dict[str, torch.Tensor]:
        x = logits.clone()
        x[place] = math.nan
        return compat.ball_loss(x, label, unknown, segment, *reported, ONE, True)

    assert ball((0, 2, 7, 7, 7))["ball_loss_bce"].isnan()
    assert ball((0, 1)) == compat.ball_loss(logits, label, unknown, segment, *reported, ONE, True)
