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
from matplotlib.patches import Patch
from scipy import ndimage

from rsuper_train.files import write_atomically

WINDOW = (-95.0, 155.0)
"""HU of black and white: an abdominal window, narrowed for a CT without contrast medium."""
ORGANS = ("#8ab4ff", "organs named in the report")
BALL = ("#ffb000", "ball pseudo-mask")
PREDICTION = ("#ff4fa3", "prediction")
TRUTH = ("#38e070", "true lesion (never seen in training)")
INK, PAPER = "#e8e8e8", "#101214"
LOSSES = {"total": "black", "volume": "C0", "ball_bce": "C1", "ball_dice": "C2", "attenuation": "C3"}
COLUMN, TEXT, HEAD, FOOT = 4.4, 0.6, 0.45, 0.5
"""Inches of a picture's width, of a report below it, above all and below all."""


@dataclass(frozen=True)
class Panel:
    """One row of the picture: a slice of arrays (D, H, W), slices to the head, rows to anterior, columns to right."""

    text: str
    ct: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    ball: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]
    slice: int


def draw_cases(panels: Sequence[Panel], path: Path) -> None:
    """One row a case: the CT and what the report says, the ball pseudo-mask, the prediction with the hidden truth."""
    _, height, width = np.multiply(panels[0].ct.shape, panels[0].spacing)
    row = COLUMN * height / width
    inches = HEAD + len(panels) * (row + TEXT) + FOOT
    figure = Figure(figsize=(3 * COLUMN + 0.3, inches), facecolor=PAPER)
    axes = figure.subplots(len(panels), 3, squeeze=False)
    figure.subplots_adjust(0.01, (FOOT + TEXT) / inches, 0.99, 1 - HEAD / inches, wspace=0.02, hspace=TEXT / row)
    titles = ("CT and organs", "ball pseudo-mask, from the report", "prediction and hidden truth")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color=INK, fontsize=13, pad=8)
    for cells, panel in zip(axes, panels, strict=True):
        for axis in cells:
            _draw_slice(axis, panel)
        _draw_mask(cells[1], panel.ball, panel, BALL)
        _draw_mask(cells[2], panel.prediction, panel, PREDICTION)
        _draw_mask(cells[2], panel.truth, panel, TRUTH, 1.5)
        report = "\n".join(textwrap.wrap(panel.text, 175))
        cells[0].text(0.0, -0.02, report, transform=cells[0].transAxes, color=INK, fontsize=9.5, va="top")
    handles = [Patch(facecolor=colour, label=label) for colour, label in (ORGANS, BALL, PREDICTION, TRUTH)]
    figure.legend(handles=handles, loc="lower center", ncol=4, frameon=False, labelcolor=INK, fontsize=11)
    write_atomically(path, lambda part: figure.savefig(part, dpi=110, format="png", facecolor=PAPER))


def _draw_slice(axis: Axes, panel: Panel) -> None:
    """The CT and its organs, patient right on the left, anterior up; axes in mm."""
    _, top, right = np.multiply(panel.ct.shape, panel.spacing)
    low, high = WINDOW
    image, box = panel.ct[panel.slice], (0, right, 0, top)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=box, origin="lower", interpolation="bicubic")
    for organ in np.unique(panel.labels[panel.labels > 0]):
        _draw_mask(axis, panel.labels == organ, panel, ORGANS, 0.9)
    axis.set(xlim=(right, 0), ylim=(0, top))
    axis.set_axis_off()
    for x, name in ((0.02, "R"), (0.95, "L")):
        axis.text(x, 0.96, name, transform=axis.transAxes, color=INK, fontsize=11, va="top")
    axis.plot([12, 62], [8, 8], color=INK, lw=2.5, solid_capstyle="butt")
    axis.text(37, 11, "50 mm", color=INK, fontsize=8.5, ha="center", va="bottom")


def _draw_mask(axis: Axes, mask: np.ndarray, panel: Panel, style: tuple[str, str], line: float = 0.0) -> None:
    """A mask's outline, or its area without a line width; a little smoothed, so that voxels' corners do not show."""
    soft = ndimage.gaussian_filter(mask[panel.slice].astype(float), 0.6)
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(soft.shape, panel.spacing[1:], strict=True))
    if line and soft.max() > 0.5:
        axis.contour(x, y, soft, levels=[0.5], colors=style[:1], linewidths=line)
    elif soft.max() > 0.5:
        axis.contourf(x, y, soft, levels=[0.5, 2.0], colors=style[:1], alpha=0.5)


def draw_losses(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Loss curves over the rows of losses.csv: a running mean over 5 % of them."""
    figure, width = Figure(figsize=(9, 4.5), layout="constrained"), max(1, len(rows) // 20)
    axis = figure.subplots()
    steps = [int(row["step"]) for row in rows][width - 1 :]
    for name, colour in LOSSES.items():
        smooth = np.convolve([float(row[name]) for row in rows], np.ones(width) / width, mode="valid")
        axis.plot(steps, smooth, color=colour, lw=2.0 if name == "total" else 1.4, label=name.replace("_", " "))
    axis.set(xlabel="step", ylabel="loss", title="Report losses during training (no lesion mask)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    write_atomically(path, lambda part: figure.savefig(part, dpi=120, format="png"))
