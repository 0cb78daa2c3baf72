# SPDX-License-Identifier: Apache-2.0
"""Names, channels, balls, Dice, rank pooling and attenuation of compat; its other parts have tests of their own."""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from rsuper_kernels import compat
from rsuper_kernels.compat.channels import lesion_groups, read_class_names
from tests.compat_cases import brute_conv, smooth_noise

# The public signatures. "classes" of volume_loss_basic has the path of a file on the authors' machine for default.
SIGNATURES = {
    "DiceLossMultiClass": (
        "preds, targets, known_voxels, alpha=0.5, beta=0.5, size_average=True, reduce=True, sigmoid=True, "
        "class_weights=None"
    ),
    "GlobalWeightedRankPooling": (
        "x, N=1000, c=0.75, inverse=False, concentrate=1, return_weights=False, hard_cutoff=False"
    ),
    "ball_convolution": "x, diameter, gaussian, gaussian_std",
    "ball_loss": (
        "out, labels, unk_voxels, chosen_segment_mask, tumor_volumes, tumor_diameters, classes, "
        "apply_dice_loss, diameter_margin=0.2, volume_margin=0.2, gaussian=True, gaussian_std=1.5, gwrp=True, "
        "gwrp_concentration=0.5, dilation_for_background=7, subseg_dilation=31, input_tensor=None, "
        "unk_dilation=1, sigmoid=True, standard_ce=False, class_weights=None, single_class=False, "
        "use_small_pseudo_mask=True"
    ),
    "calculate_loss": (
        "model_output, label, unk_voxels, args, matcher, chosen_segment_mask, tumor_volumes_report, "
        "tumor_diameters, classes, input_tensor=None, class_weights=None, model_genesis=False, "
        "clip_only=False, report_embeddings=None, dist=None"
    ),
    "classification_loss": "cls_out, label, unk_voxels, args, chosen_segment_mask, classes, class_weights=None",
    "create_ball_kernel": "diameter, gaussian=False, gaussian_std=1.5",
    "dice_based_volume_loss": "x, y, tolerance=0.1, E=500, cross_entropy=False",
    "dilate_volume": "volume, kernel_size, full_pass_radius=3",
    "dilate_volume_conv": "volume, kernel_size",
    "dilate_volume_maxpool": "volume, kernel_size",
    "extract_hu": "ct, out, class_list",
    "get_known_voxels": "y, unk_voxels, dilation=5, sanity=True, classes=None",
    "get_lesion_channels": "out, classes, assertion=False, return_class_names=False",
    "get_mask_lesion_masks": "out, class_list",
    "info_nce": "query, positive_key, negative_keys=None, temperature=0.1, reduction='mean', negative_mode='unpaired'",
    "insert_ball": "out_spatial, best_center, diameter, margin",
    "isolate_tumor": "x, diameter, gaussian, gaussian_std, tumor_volume, diameter_margin=0.5, volume_margin=0.5",
    "merge_no_overlap": "d1, d2",
    "model_genesis_loss": "result, label",
    "volume_loss_basic": (
        "out, chosen_segment_mask, tumor_volumes, labels, unk_voxels, classes=None, dilation_segment=31, "
        "dilation_unk=7, tolerance=0.1, loss_function='deprecated', n='huber', sigmoid=True, "
        "class_weights=None"
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(compat, name)).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    # a parameter without its annotation is written without spaces around "="
    assert ", ".join(map(str, plain)) == SIGNATURES[name]


# class names


def test_class_names_from_files(tmp_path):
    (tmp_path / "names.txt").write_text("pancreas\nliver_lesion\n\nliver\n")
    assert read_class_names(tmp_path / "names.txt") == ["liver", "liver_lesion", "pancreas"]
    (tmp_path / "names.yaml").write_text("- pancreas\n- liver_lesion\n")
    assert read_class_names(str(tmp_path / "names.yaml")) == ["liver_lesion", "pancreas"]
    assert read_class_names(("b", "a")) == ["b", "a"]
    (tmp_path / "names.yaml").write_text("liver: 1")
    with pytest.raises(ValueError, match="does not hold a list of names"):
        read_class_names(tmp_path / "names.yaml")
    with pytest.raises(ValueError, match="no such file"):
        read_class_names(tmp_path / "nowhere.txt")


def test_lesion_groups():
    names = ["colon_lesion_pdac", "liver", "pancreatic_cyst_lesion", "pancreatic_lesion", "pancreatic_lesion_2"]
    assert lesion_groups(names) == {
        "colon_lesion": [0],
        "colon_lesion_pdac": [0],
        "pancreas_cyst_lesion": [2],
        "pancreas_cyst": [2],
        "pancreas_lesion": [3, 4],
    }
    with pytest.raises(ValueError, match="expected an organ and an underscore before 'lesion', got 'lesion'"):
        lesion_groups(["lesion"])
    with pytest.raises(ValueError, match="no name holds any of"):
        lesion_groups(["liver"])
    two = torch.ones(2, 2, 3, 3, 3)
    two[0, 0] = 0
    with pytest.raises(ValueError, match="sample 1 has liver_lesion, spleen_lesion"):
        compat.get_lesion_channels(two, ["liver_lesion", "spleen_lesion"], assertion=True)
    with pytest.raises(ValueError, match="got 1 names"):
        compat.get_lesion_channels(two, ["liver_lesion"])


# balls and dilations


def test_balls_against_dense_convolution():
    x = torch.rand(2, 9, 8, 7, requires_grad=True)
    for gaussian in (False, True):
        kernel = compat.create_ball_kernel(5.5, gaussian, 2.0)
        assert kernel.shape == (9, 9, 9)
        dense = torch.stack([brute_conv(plane, kernel) for plane in x])
        torch.testing.assert_close(compat.ball_convolution(x, 5.5, gaussian, 2.0), dense, rtol=1e-5, atol=1e-6)
    weights = torch.rand_like(x)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), x)[0] for y in (compat.ball_convolution(x, 5.5, True, 2.0), dense)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_insert_ball():
    ball = compat.insert_ball((9, 10, 11), (4, 5, 0), 5, 0.2)
    point = torch.zeros(9, 10, 11)
    point[4, 5, 0] = 1
    assert torch.equal(ball, compat.dilate_volume_conv(point, 7))
    # 5 -> 6 -> 7 voxels: half of the ball of 179 and its middle slice of 37 are inside
    assert ball.sum() == (179 + 37) / 2
    assert torch.equal(compat.insert_ball(point.double(), (4, 5, 0), 5, 0.2), ball.double())


def test_dilations():
    point = torch.zeros(1, 2, 21, 21, 21)
    point[0, 1, 10, 10, 10] = 3
    assert compat.dilate_volume(point, 9).sum() == 461
    assert compat.dilate_volume_conv(point, 9).sum() == 389
    assert compat.dilate_volume_maxpool(point, 9).sum() == 7**3
    assert compat.dilate_volume(point > 0, 1).dtype == torch.float32
    for function in (compat.dilate_volume, compat.dilate_volume_conv):
        with pytest.raises(ValueError, match="kernel_size"):
            function(point, 0)
    for diameter in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="diameter"):
            compat.create_ball_kernel(diameter)


def test_known_voxels():
    unknown = torch.zeros(1, 1, 9, 9, 9)
    unknown[0, 0, 4, 4, 4] = 1
    assert (compat.get_known_voxels(unknown, unknown) == 0).sum() == 81
    assert torch.equal(compat.get_known_voxels(unknown.long(), unknown, dilation=0, sanity=False), 1 - unknown)
    with pytest.raises(ValueError, match=r"unk_voxels: expected 0 and 1 only, got 0.5 at \[0, 0, 4, 4, 4\]"):
        compat.get_known_voxels(unknown, unknown / 2)


# the rest


def test_dice_shapes_and_reductions():
    preds, target = smooth_noise(2, 3, 6, 7, 8), (smooth_noise(2, 3, 6, 7, 8, seed=1) > 1).float()
    known = torch.ones_like(target)
    table = compat.DiceLossMultiClass(preds, target, known, reduce=False)
    assert table.shape == (2, 3)
    assert torch.equal(table, compat.DiceLossMultiClass(preds, target, known, size_average=False))
    assert compat.DiceLossMultiClass(preds, target, known) == table.mean()
    assert compat.DiceLossMultiClass(preds, target, known, alpha=0.9, beta=3) == table.mean()
    probabilities = compat.DiceLossMultiClass(preds.sigmoid(), target, known, sigmoid=False, reduce=False)
    torch.testing.assert_close(probabilities, table)
    single = compat.DiceLossMultiClass(preds[0], target[0], known[0], reduce=False)
    assert torch.equal(single, compat.DiceLossMultiClass(preds[:1], target[:1], known[:1], reduce=False))
    assert compat.DiceLossMultiClass(preds[0, 0], target[0, 0], known[0, 0], reduce=False).shape == (1, 1)


def test_gradients_in_float64():
    preds = torch.randn(1, 2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(1, 2, 3, 4, 3) > 0.5).double()
    classes = ["liver", "liver_lesion"]
    ct = torch.rand(1, 1, 3, 4, 3, dtype=torch.float64)
    for function in (
        lambda x: compat.DiceLossMultiClass(x, target, torch.ones_like(target), reduce=False),
        lambda x: compat.volume_loss_basic(x, target, torch.full((1, 10), 30.0), 0 * target, None, classes)[
            "dice_volume_loss"
        ],
        lambda x: compat.extract_hu(ct, x, classes)[0],
        lambda x: compat.simple_classifier(classes)(ct, x),
        lambda x: compat.GlobalWeightedRankPooling(x, N=5),
    ):
        assert torch.autograd.gradcheck(function, preds)


def test_rank_pooling_by_hand():
    x = torch.tensor([3.0, 1.0, 2.0, 0.0]).reshape(1, 1, 4)
    # N = 2, c = 0.75: d = 0.5
    weights = compat.GlobalWeightedRankPooling(x, N=2, c=0.75, return_weights=True)
    torch.testing.assert_close(weights.flatten(), torch.tensor([8.0, 2.0, 4.0, 1.0]) / 15)
    cut = compat.GlobalWeightedRankPooling(x, N=2, c=0.75, return_weights=True, hard_cutoff=True)
    torch.testing.assert_close(cut.flatten(), torch.tensor([2.0, 0.0, 1.0, 0.0]) / 3)
    inverse = compat.GlobalWeightedRankPooling(x, N=2, c=0.75, return_weights=True, inverse=True)
    torch.testing.assert_close(inverse.flatten(), torch.tensor([0.0, 0.75, 0.0, 0.875]))
    steep = compat.GlobalWeightedRankPooling(x, N=2, c=0.75, concentrate=3)
    torch.testing.assert_close(steep, torch.tensor(98 / 39))
    assert compat.GlobalWeightedRankPooling(x.expand(2, 3, 1, 1, 4), N=torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match="N: expected a number, or one for each map"):
        compat.GlobalWeightedRankPooling(x.expand(2, 3, 1, 1, 4), N=torch.ones(3, 2))
    with pytest.raises(ValueError, match="c: expected"):
        compat.GlobalWeightedRankPooling(x, c=1)


def test_organ_of_each_lesion():
    names = [
        "adrenal_gland_left",
        "adrenal_gland_right",
        "adrenal_lesion",
        "kidney_left",
        "kidney_lesion",
        "pancreas",
        "pancreatic_pdac",
    ]
    out = torch.rand(1, 7, 2, 2, 2)
    lesions, organs, channels = compat.get_mask_lesion_masks(out, names)
    assert channels == [2, 4, 6]
    assert torch.equal(lesions, out[:, channels])
    assert torch.equal(organs[:, 0], torch.maximum(out[:, 0], out[:, 1]))
    # one kidney is missing; a tag other than "lesion" names its own channel
    assert (organs[:, 1] == 1).all()
    assert torch.equal(organs[:, 2], out[:, 6])


def test_attenuation_of_venous_samples():
    contrast, target = torch.tensor([[[0.5]], [[0.2]]], requires_grad=True), torch.tensor([[-1.0, 0.0], [-1.0, 0.0]])
    chosen, args = torch.ones(2, 1, 2, 2, 2), SimpleNamespace(attenuation_classifier_venous=True)
    loss = compat.l1_simple_attenuation_classifier(contrast, target, chosen, ["liver_lesion"], None, None)
    torch.testing.assert_close(loss, torch.tensor([0.35]))
    loss = compat.l1_simple_attenuation_classifier(
        contrast, target, chosen, ["liver_lesion"], ["arterial", "venous"], args
    )
    torch.testing.assert_close(loss, torch.tensor([0.2]))
    loss = compat.l1_simple_attenuation_classifier(contrast, target, chosen, ["liver_lesion"], ["arterial", ""], args)
    assert loss == 0
    assert loss.ndim == 0
    with pytest.raises(ValueError, match="contrast: expected a phase"):
        compat.l1_simple_attenuation_classifier(contrast, target, chosen, ["liver_lesion"], None, args)
    two = torch.ones(2, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="sample 0 has liver_lesion, spleen_lesion"):
        compat.l1_simple_attenuation_classifier(
            torch.zeros(2, 2, 1), target, two, ["liver_lesion", "spleen_lesion"], None, None
        )
