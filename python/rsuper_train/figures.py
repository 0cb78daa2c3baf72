# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: loss curves, and CT slices with organs, truth, pseudo-mask and prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rsuper_train.files import write_atomically
from rsuper_train.pictures import BALL, PREDICTION, REGION, TRUTH, Layer, draw_slice

WINDOW = (-95.0, 155.0)
"""HU of black and white: an abdominal window, narrowed for a CT without contrast medium."""
LEGEND = {
    "organs named in the report": REGION,
    "ball pseudo-mask": BALL,
    "prediction": PREDICTION,
    "true lesion (never seen in training)": TRUTH,
}
INK, PAPER = "#e8e8e8", "#101214"
LOSSES = {"total": "black", "volume": "C0", "ball_bce": "C1", "ball_dice": "C2", "attenuation": "C3"}
COLUMN, TEXT, HEAD, FOOT = 4.4, 0.6, 0.45, 0.5
"""Inches of a picture's width, of a report below it, above all and below all."""


@dataclass(frozen=True)
class Panel:
    """One row of the picture: a slice (H, W), rows to anterior, columns to the patient's right."""

    text: str
    ct: np.ndarray
    labels: np.ndarray
    truth: np.ndarray
    ball: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]


def draw_cases(panels: Sequence[Panel], path: Path) -> None:
    """One row a case: the CT and what the report says, the ball pseudo-mask, the prediction with the hidden truth."""
    height, width = np.multiply(panels[0].ct.shape, panels[0].spacing)
    row = COLUMN * height / width
    inches = HEAD + len(panels) * (row + TEXT) + FOOT
    figure = Figure(figsize=(3 * COLUMN + 0.3, inches), facecolor=PAPER)
    axes = figure.subplots(len(panels), 3, squeeze=False)
    figure.subplots_adjust(0.01, (FOOT + TEXT) / inches, 0.99, 1 - HEAD / inches, wspace=0.02, hspace=TEXT / row)
    titles = ("CT and organs", "ball pseudo-mask, from the report", "prediction and hidden truth")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color=INK, fontsize=13, pad=8)
    for cells, panel in zip(axes, panels, strict=True):
        organs = [Layer(panel.labels == id, REGION) for id in np.unique(panel.labels[panel.labels > 0])]
        ball = [Layer(panel.ball, BALL, "fill")]
        found = [Layer(panel.prediction, PREDICTION, "fill"), Layer(panel.truth, TRUTH)]
        for axis, layers in zip(cells, ([], ball, found), strict=True):
            draw_slice(axis, panel.ct, panel.spacing, organs + layers, WINDOW)
        report = "\n".join(textwrap.wrap(panel.text, 175))
        cells[0].text(0.0, -0.02, report, transform=cells[0].transAxes, color=INK, fontsize=9.5, va="top")
    handles = [Patch(facecolor=colour, label=label) for label, colour in LEGEND.items()]
    figure.legend(handles=handles, loc="lower center", ncol=4, frameon=False, labelcolor=INK, fontsize=11)
    write_atomically(path, lambda part: figure.savefig(part, dpi=110, format="png", facecolor=PAPER))


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
