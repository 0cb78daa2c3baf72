# SPDX-License-Identifier: Apache-2.0
"""The two recipes of report supervision, as values of one set of options.

"paper" (the default) is what the papers, poster and slides describe, in mm. "rsuper" is what the public training code
computes, rule by rule. Both run on the same ops; each option below can be moved from one value to the other by itself:

    ball_loss(logits, findings, regions, spacing, recipe="rsuper", voxel_count="reported")
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Recipe:
    """Options of the losses. The defaults are the recipe "paper"; (Q..) numbers the public code's quirks."""

    # --- geometry
    units: Literal["mm", "voxels"] = "mm"
    """ "voxels" takes every voxel for 1 x 1 x 1 mm, whatever the spacing says."""
    dilation: Literal["ball", "cascade"] = "ball"
    """Euclidean balls in mm, or the public cascade of 7-voxel balls (Q1), which takes mm for voxels."""
    region_margin: float = 15.0
    """S+ = voxels within this many mm of the reported region; the cascade rounds it to whole voxels."""

    neighbours: Literal["exclude", "share"] = "exclude"
    """S+ leaves out the regions of the plane's other groups, and a negative speaks of its region alone; or S+ overlaps
    them. The public code knows one group a sample."""

    # --- volume loss
    tolerance: float = 0.1
    """Relative error of the volume that costs nothing (the public command line says 0.2, Q5)."""
    smoothing: float = 500.0
    """E in mm3: volumes well below it cost little."""
    negatives: Literal["push", "ignore"] = "push"
    """Whether a reported negative pushes the predicted volume to 0; the public code never uses that part (Q4)."""
    volume_mean: Literal["groups", "channels"] = "groups"
    """Mean over the finding groups, or over samples x lesion channels, reported or not."""

    # --- ball loss
    diameter_margin: float = 0.2
    """The ball's diameter exceeds the tumour's by this share."""
    volume_margin: float = 0.2
    """core = (1 - margin) N voxels and ring = (1 + margin) N voxels, for a tumour of N voxels."""
    sigma: float | None = 1.5
    """Width of the search kernel in radii; None for a flat ball."""
    diameters: Literal["exact", "odd"] = "exact"
    """Balls of the reported mm, or of the next odd number of them, grown in odd steps (Q16-Q18)."""
    voxel_count: Literal["reported", "ball"] = "reported"
    """N from the reported volume, or raised to the voxels of the ball of the largest diameter, less one (Q6)."""
    placement: Literal["region", "patch"] = "region"
    """Tumours keep to unassigned voxels of S+, or may be filled with voxels of probability 0 from anywhere (Q7)."""
    tolerated_margin: float = 3.0
    """Voxels within this many mm of the ring are neither tumour nor background."""
    rank_concentration: float | None = 0.5
    """c of the rank weights in the cross-entropy; None weighs all foreground alike."""
    bce_mean: Literal["own", "patch"] = "own"
    """Foreground and background are averaged over their own voxels, or both over the whole patch (Q9)."""
    ball_mean: Literal["planes", "samples"] = "planes"
    """Mean over planes, or over samples, whose negative planes then count only where no tumour is reported (Q14)."""

    # --- attenuation loss
    attenuation_scope: Literal["tumour", "group"] = "tumour"
    """In the total loss: compare each placed tumour's own voxels, or all of S+ at once."""
    attenuation_delta: float = 0.0
    """HU by which a hypo- or hyperattenuating tumour must differ from the organ; 0 asks for the sign alone."""
    iso_band: float = 10.0
    """HU within which an isoattenuating tumour may differ from the organ."""
    window: tuple[float, float] = (-991.0, 500.0)
    """HU to which the CT is clipped."""

    # --- segmentation term
    rim: Literal["unknown", "background"] = "unknown"
    """Voxels of S+ outside the region: unknown to the segmentation term, or background (Q13)."""
    empty_dice: Literal["skip", "one"] = "skip"
    """A Dice without any target voxel is left out of the mean, or is the constant 1 (Q3)."""

    # --- total
    single_head: Literal["both", "ball"] = "both"
    """With one head, apply both report losses, or the ball loss alone (Q10)."""

    def __post_init__(self) -> None:
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("region_margin", "smoothing", "diameter_margin", "tolerated_margin", "iso_band"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")
        for name in ("tolerance", "volume_margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {getattr(self, name)!r}")
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window: expected (low, high) in HU with low < high, got {self.window!r}")


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    """The options that are one of a few words, and their words."""
    hints = get_type_hints(Recipe)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


PAPER = Recipe()
RSUPER = Recipe(
    units="voxels",
    dilation="cascade",
    neighbours="share",
    negatives="ignore",
    volume_mean="channels",
    diameters="odd",
    voxel_count="ball",
    placement="patch",
    bce_mean="patch",
    ball_mean="samples",
    rim="background",
    empty_dice="one",
    single_head="ball",
)
RECIPES = {"paper": PAPER, "rsuper": RSUPER}


def get_recipe(recipe: str | Recipe = "paper", **options: Any) -> Recipe:
    """A recipe by name (or itself), with some options changed.

    Raises:
        ValueError: an unknown recipe, or an option's value out of range.
        TypeError: an unknown option.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe: expected one of {', '.join(RECIPES)} or a Recipe, got {recipe!r}")
        recipe = RECIPES[recipe]
    known = {option.name for option in fields(Recipe)}
    for name in options:
        if name not in known:
            raise TypeError(f"unknown option {name!r}; the options of a recipe are {', '.join(sorted(known))}")
    return replace(recipe, **options) if options else recipe
