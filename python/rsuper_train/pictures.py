# SPDX-License-Identifier: Apache-2.0
"""Slices of a CT with masks over it, as radiologists look at them: the patient's right is on the left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes

Style = Literal["fill", "-", "--"]

SOFT_TISSUE, LUNG = (-110.0, 190.0), (-1000.0, 200.0)
"""HU of black and white."""
TRUTH, PREDICTION, REGION, BALL = "#38e070", "#ff4fa3", "#8ab4ff", "#ffb000"
"""Colours of masks."""
ON_TOP: dict[str, Any] = {
    "color": "white",
    "path_effects": [patheffects.withStroke(linewidth=4, foreground="black", alpha=0.6)],
}


class Layer(NamedTuple):
    """A mask (rows, columns) over a slice: filled, or the line around it."""

    mask: np.ndarray
    colour: str
    style: Style = "-"


def draw_slice(
    axis: Axes,
    ct: np.ndarray,
    spacing: Sequence[float],
    layers: Iterable[Layer],
    window: tuple[float, float] = SOFT_TISSUE,
) -> None:
    """Draw a slice, with a bar of 20 mm.

    Args:
        ct: HU; rows run to the head or to anterior, columns to the patient's right.
        spacing: mm between rows, and between columns.
    """
    top, right = np.multiply(ct.shape, spacing)
    y, x = ((np.arange(n) + 0.5) * mm for n, mm in zip(ct.shape, spacing, strict=True))
    low, high = window
    box = (0, right, 0, top)
    axis.imshow(ct, cmap="gray", vmin=low, vmax=high, extent=box, origin="lower", interpolation="bicubic")
    for mask, colour, style in layers:
        if not mask.any() or min(mask.shape) < 2:
            continue
        if style == "fill":
            axis.contourf(x, y, mask.astype(float), levels=[0.5, 2], colors=[colour], alpha=0.45)
        else:
            axis.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.6, linestyles=style)
    axis.set(xlim=(right, 0), ylim=(0, top), aspect="equal")
    axis.set_axis_off()
    axis.plot([right - 4, right - 24], [0.04, 0.04], lw=2.5, transform=axis.get_xaxis_transform(), **ON_TOP)
    axis.text(right - 4, 0.06, "20 mm", fontsize=9, transform=axis.get_xaxis_transform(), **ON_TOP)
    axis.text(0.02, 0.5, "R", va="center", fontsize=11, transform=axis.transAxes, **ON_TOP)
