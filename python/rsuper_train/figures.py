# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: loss curves, and CT slices with organs, truth, pseudo-mask and prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy import ndimage

from rsuper_train.cohort.real_ct import ORGAN_LABELS
from rsuper_train.files import write_atomically

WINDOW = (30.0, 250.0)
"""Level and width in HU: an abdominal window, narrowed for a CT without contrast medium."""
ORGAN_COLOUR, TRUTH_COLOUR, BALL_COLOUR, PREDICTION_COLOUR = "#8ab4ff", "#38e070", "#ffb000", "#ff4fa3"
INK, PAPER = "#e8e8e8", "#101214"
LOSS_NAMES = {
    "total": "total",
    "volume": "volume",
    "ball_bce": "ball, cross-entropy",
    "ball_dice": "ball, Dice",
    "attenuation": "attenuation",
}


@dataclass(frozen=True)
class Panel:
    """One row of the picture; all arrays (D, H, W) on the case's grid."""

    title: str
    report: str
    ct: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    ball: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]
    slice: int


def draw_cases(panels: Sequence[Panel], path: Path) -> None:
    """One row a case: the CT and what the report says, the ball pseudo-mask, the prediction with the hidden truth.

    Radiological view: patient right on the left, anterior up.
    """
    column, row, text, head, foot = 4.4, _row_height(panels[0], 4.4), 0.6, 0.45, 0.5  # inches
    height = head + len(panels) * (row + text) + foot
    figure = Figure(figsize=(3 * column + 0.3, height), facecolor=PAPER)
    axes = figure.subplots(len(panels), 3, squeeze=False)
    figure.subplots_adjust(
        left=0.01, right=0.99, top=1 - head / height, bottom=(foot + text) / height, wspace=0.02, hspace=text / row
    )
    for axis, title in zip(
        axes[0], ("CT and organs", "ball pseudo-mask, from the report", "prediction and hidden truth"), strict=True
    ):
        axis.set_title(title, color=INK, fontsize=13, pad=8)
    for cells, panel in zip(axes, panels, strict=True):
        for axis in cells:
            _draw_ct(axis, panel)
        _draw_row(cells, panel)
    handles = [
        Line2D([], [], color=ORGAN_COLOUR, lw=1.2, label="organs named in the report"),
        Patch(facecolor=BALL_COLOUR, alpha=0.6, label="ball pseudo-mask"),
        Patch(facecolor=PREDICTION_COLOUR, alpha=0.6, label="prediction"),
        Line2D([], [], color=TRUTH_COLOUR, lw=1.6, label="true lesion (never seen in training)"),
    ]
    figure.legend(handles=handles, loc="lower center", ncol=4, frameon=False, labelcolor=INK, fontsize=11)
    _save(figure, path, dpi=110)


def _row_height(panel: Panel, width: float) -> float:
    """Height of a slice drawn `width` wide."""
    _, _, bottom, top = _extent(panel)
    return width * (top - bottom) / _extent(panel)[1]


def _draw_row(axes: Sequence[Axes], panel: Panel) -> None:
    """Overlays and texts of one case."""
    for organ in ORGAN_LABELS.values():
        for axis in axes:
            _outline(axis, panel.labels == organ, panel, ORGAN_COLOUR, 0.9)
    _fill(axes[1], panel.ball, panel, BALL_COLOUR)
    _fill(axes[2], panel.prediction, panel, PREDICTION_COLOUR)
    _outline(axes[2], panel.truth, panel, TRUTH_COLOUR, 1.5)
    report = "\n".join(textwrap.wrap(f"{panel.title}   “{panel.report}”", 185))
    axes[0].text(0.0, -0.02, report, transform=axes[0].transAxes, color=INK, fontsize=9.5, va="top", clip_on=False)


def _draw_ct(axis: Axes, panel: Panel) -> None:
    """The slice in its window, with side marks and a scale bar; axes in mm."""
    level, width = WINDOW
    image = _view(panel.ct, panel)
    extent = _extent(panel)
    low, high = level - width / 2, level + width / 2
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bicubic", origin="upper")
    axis.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.text(0.02, 0.96, "R", transform=axis.transAxes, color=INK, fontsize=11, va="top")
    axis.text(0.98, 0.96, "L", transform=axis.transAxes, color=INK, fontsize=11, va="top", ha="right")
    right, bottom = extent[1] - 12, 8
    axis.plot([right - 50, right], [bottom, bottom], color=INK, lw=2.5, solid_capstyle="butt")
    axis.text(right - 25, bottom + 3, "50 mm", color=INK, fontsize=8.5, ha="center", va="bottom")


def _extent(panel: Panel) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the slice in mm."""
    _, height, width = panel.ct.shape
    return 0.0, width * panel.spacing[2], 0.0, height * panel.spacing[1]


def _view(volume: np.ndarray, panel: Panel) -> np.ndarray:
    """The panel's slice as radiologists look at it: rows from anterior to posterior, columns from patient right."""
    return volume[panel.slice, ::-1, ::-1]


def _grid(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """mm of the voxel centres of the viewed slice: columns, rows."""
    _, height, width = panel.ct.shape
    return (np.arange(width) + 0.5) * panel.spacing[2], (np.arange(height)[::-1] + 0.5) * panel.spacing[1]


def _soft(mask: np.ndarray, panel: Panel) -> np.ndarray:
    """The mask's slice, slightly smoothed so that its outline does not show every voxel's corner."""
    return ndimage.gaussian_filter(_view(mask, panel).astype(np.float64), 0.6)


def _outline(axis: Axes, mask: np.ndarray, panel: Panel, colour: str, width: float) -> None:
    if _view(mask, panel).any():
        axis.contour(*_grid(panel), _soft(mask, panel), levels=[0.5], colors=[colour], linewidths=width)


def _fill(axis: Axes, mask: np.ndarray, panel: Panel, colour: str) -> None:
    if _view(mask, panel).any():
        axis.contourf(*_grid(panel), _soft(mask, panel), levels=[0.5, 2.0], colors=[colour], alpha=0.5)


def draw_losses(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss curves over the steps: a running mean over 5 % of the training."""
    figure = Figure(figsize=(9, 4.5))
    axis = figure.subplots()
    width = max(1, len(history) // 20)
    for name in history[0]:
        values = np.array([step[name] for step in history])
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        style = {"color": "black", "lw": 2.0} if name == "total" else {"lw": 1.4}
        axis.plot(np.arange(len(smooth)) + width, smooth, label=LOSS_NAMES.get(name, name), **style)
    axis.set(
        xlabel="step", ylabel="loss", title="Report losses during training (no lesion mask)", xlim=(1, len(history))
    )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.tight_layout()
    _save(figure, path, dpi=120)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a PNG under a temporary name, then rename."""
    colour = figure.get_facecolor()
    write_atomically(path, lambda part: figure.savefig(part, dpi=dpi, format="png", facecolor=colour))
