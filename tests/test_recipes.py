# SPDX-License-Identifier: Apache-2.0
"""Recipes as values of one set of options. What each option does stands in losses/test_options.py."""

from dataclasses import fields, replace

import pytest

from rsuper_kernels import (
    PAPER,
    RSUPER,
    BallLoss,
    Recipe,
    ReportSupervisedLoss,
    SegmentationLoss,
    VolumeLoss,
    get_recipe,
)

DIFFERENCES = {
    "units": ("mm", "voxels"),
    "dilation": ("ball", "cascade"),
    "negatives": ("push", "ignore"),
    "volume_mean": ("groups", "channels"),
    "diameters": ("exact", "odd"),
    "neighbours": ("exclude", "share"),
    "voxel_count": ("reported", "ball"),
    "placement": ("region", "patch"),
    "bce_mean": ("own", "patch"),
    "ball_mean": ("planes", "samples"),
    "rim": ("unknown", "background"),
    "empty_dice": ("skip", "one"),
    "single_head": ("both", "ball"),
}


def test_what_separates_the_recipes():
    names = [field.name for field in fields(Recipe)]
    separate = {name: (getattr(PAPER, name), getattr(RSUPER, name)) for name in names}
    assert {name: pair for name, pair in separate.items() if pair[0] != pair[1]} == DIFFERENCES


def test_published_numbers():
    for recipe in (PAPER, RSUPER):
        assert (recipe.region_margin, recipe.tolerance, recipe.smoothing) == (15.0, 0.1, 500.0)
        assert (recipe.diameter_margin, recipe.volume_margin, recipe.sigma) == (0.2, 0.2, 1.5)
        assert (recipe.tolerated_margin, recipe.rank_concentration) == (3.0, 0.5)


def test_by_name_by_value_and_changed():
    assert get_recipe() == get_recipe("paper") == PAPER == Recipe()
    assert get_recipe("rsuper") == RSUPER
    assert get_recipe(RSUPER, tolerance=0.2) == replace(RSUPER, tolerance=0.2)
    mixed = PAPER
    for name, (_, value) in DIFFERENCES.items():
        mixed = get_recipe(mixed, **{name: value})
    assert mixed == RSUPER


@pytest.mark.parametrize("loss", [VolumeLoss, BallLoss, SegmentationLoss, ReportSupervisedLoss])
def test_modules_take_recipes_and_options(loss):
    module = loss("rsuper", tolerance=0.2)
    assert module.recipe == replace(RSUPER, tolerance=0.2)
    assert "tolerance=0.2" in repr(module)
    with pytest.raises(TypeError, match="unknown option 'tolerence'"):
        loss(tolerence=0.2)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_choices_are_checked(name):
    expected = ", ".join(DIFFERENCES[name])
    with pytest.raises(ValueError, match=f"{name}: expected one of {expected}, got 'neither'"):
        get_recipe(**{name: "neither"})


@pytest.mark.parametrize("name", ["region_margin", "smoothing", "diameter_margin", "tolerated_margin"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_lengths_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a number of at least 0, got {value}"):
        get_recipe(**{name: value})


@pytest.mark.parametrize("name", ["tolerance", "volume_margin"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"{name}: expected a number in \[0, 1\), got {value}"):
        get_recipe(**{name: value})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="recipe: expected one of paper, rsuper or a Recipe, got 'miccai'"):
        get_recipe("miccai")
    with pytest.raises(
        TypeError, match=r"unknown option 'margin'; the options of a recipe are .*ball_mean, bce_mean, "
    ):
        get_recipe(margin=3)
