# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation, in one file: tables with intervals, charts, pictures of the best and the worst cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from rsuper_train import metrics, pages
from rsuper_train.evaluation_cases import Row, load
from rsuper_train.files import first_line
from rsuper_train.nifti import Image
from rsuper_train.pictures import PREDICTION, TRUTH, Layer, draw_slice

SHOWN = 3
"""Best cases with a picture, and worst."""
SMALLEST_VIEW, MARGIN = 120.0, 25.0
"""mm of a picture, and around what it shows."""
BLUE, ORANGE, FAINT = "#2f6f9f", "#d9822b", "#9aa4b0"
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT}


def write_page(path: Path, result: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write the page about a result of `evaluate` and the rows behind it; it needs nothing but itself."""
    channels = {name: [row for row in rows if row.job.channel == name] for name in result["channels"]}
    pages.write(
        path,
        "evaluation.html.j2",
        result=result,
        charts={name: _charts(result["channels"][name], some) for name, some in channels.items()},
        pictures={name: _pictures(some) for name, some in channels.items()},
        colours={"truth": TRUTH, "prediction": PREDICTION},
        rules=metrics,
    )


def summary_table(result: Mapping[str, Any]) -> Table:
    """The figures for a terminal, a column a channel."""
    channels = result["channels"].values()
    table = Table("", *map(escape, result["channels"]))
    for group in ("overlap", "lesions", "patients"):
        for name in next(iter(channels))[group]:
            table.add_row(f"{group}: {name.replace('_', ' ')}", *(str(channel[group][name]) for channel in channels))
    return table


def _charts(figures: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Title -> image; only what there are data for."""
    masks = [row for row in rows if row.mask and row.mask.lesions]
    charts: dict[str, Callable[[Axes], object]] = {}
    if figures["roc"]:
        charts["ROC of patients"] = lambda axis: _roc(axis, figures)
    if figures["froc"]:
        charts["FROC of lesions"] = lambda axis: _froc(axis, figures["froc"])
    if masks:
        charts["Tumour volume, predicted against true (Bland-Altman)"] = lambda axis: _volumes(axis, masks)
    return {title: _chart(draw) for title, draw in charts.items()}


def _chart(draw: Callable[[Axes], object]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure((5.2, 3.9), layout="constrained")
        draw(figure.subplots())
        return pages.image(figure)


def _roc(axis: Axes, figures: Mapping[str, Any]) -> None:
    axis.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
    axis.plot(*figures["roc"].values(), color=BLUE, lw=2, label=f"AUC {figures['patients']['auc'].value:.3f}")
    rates = [figures["patients"][name].value for name in ("specificity", "sensitivity")]
    threshold = figures["operating_point"].threshold
    axis.plot(1 - rates[0], rates[1], "o", color=ORANGE, ms=8, label=f"operating point, p ≥ {threshold:g}")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(loc="lower right", frameon=False)


def _froc(axis: Axes, curve: Mapping[str, Sequence[float]]) -> None:
    rates, sensitivity = curve.values()
    axis.step(rates, sensitivity, where="post", color=BLUE, lw=2)
    axis.plot(rates[-1], sensitivity[-1], "o", color=ORANGE, ms=8, label="all predicted components")
    axis.set(xlabel="false positives per case", ylabel="sensitivity", xlim=(-0.02, max(rates[-1], 0.5) * 1.05))
    axis.set_ylim(-0.02, 1.02)
    axis.legend(loc="lower right", frameon=False)


def _volumes(axis: Axes, rows: Sequence[Row]) -> None:
    pairs = np.array([(row.predicted_mm3, row.truth.volume_mm3) for row in rows], float) / 1000
    means, difference = pairs.mean(1), pairs[:, 0] - pairs[:, 1]
    axis.plot(means, difference, "o", color=BLUE, ms=6, alpha=0.7, mec="white")
    bias, spread = difference.mean(), 1.96 * difference.std(ddof=1) if len(rows) > 1 else 0.0
    lines = {"mean": bias, "+1.96 SD": bias + spread, "-1.96 SD": bias - spread} if spread else {"mean": bias}
    for name, level in lines.items():
        axis.axhline(level, color=ORANGE, lw=1.5 if name == "mean" else 1, ls="-" if name == "mean" else "--")
        axis.annotate(
            f"{name} {level:.3g}", (1, level), (-2, 4), xycoords=axis.get_yaxis_transform(),
            textcoords="offset points", ha="right", fontsize=8, color=ORANGE,
            bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
        )  # fmt: skip
    axis.set(xscale="log", xlabel="mean of both volumes, ml", ylabel="predicted - true, ml")
    axis.xaxis.set_major_formatter("{x:g}")
    low, high = axis.get_xlim()
    axis.xaxis.set_minor_formatter("{x:g}" if high < 9 * low else "")


def _pictures(rows: Sequence[Row]) -> dict[str, list[tuple[Row, str, str]]]:
    """Worst and best cases by DSC: row, image, or why there is none."""
    scored = [(row.mask.dice, number, row) for number, row in enumerate(rows) if row.mask and row.mask.dice is not None]
    ordered = [row for _, _, row in sorted(scored)]
    worst, others = ordered[:SHOWN], ordered[SHOWN:]
    return {"Worst": [_picture(row) for row in worst], "Best": [_picture(row) for row in others[::-1][:SHOWN]]}


def _picture(row: Row) -> tuple[Row, str, str]:
    """The CT where the tumour is largest, with the truth's outline and the prediction filled."""
    if row.job.ct is None:
        return row, "", "no CT beside the truth; --data names their folder"
    try:
        predicted, _, truth, grid = load(row.job)
        ct, spacing = Image(row.job.ct, grid, "the prediction").read(), grid.spacing
    except ValueError as error:
        return row, "", first_line(error)
    assert truth is not None
    level = int(truth.sum((1, 2)).argmax())
    box = _view(truth[level] | predicted[level], spacing[1:])
    ct, truth, predicted = (volume[level][box] for volume in (ct, truth, predicted))
    figure = Figure((4, 4), facecolor="black")
    layers = (Layer(predicted, PREDICTION, "fill"), Layer(truth, TRUTH))
    draw_slice(figure.add_axes((0, 0, 1, 1)), ct, spacing[1:], layers)
    return row, pages.image(figure), ""


def _view(seen: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    """A square around what there is to see, as far as the slice goes."""
    places = np.argwhere(seen)
    low, high = places.min(0), places.max(0) + 1
    side = max(SMALLEST_VIEW, ((high - low) * spacing).max() + 2 * MARGIN)
    size = np.minimum(np.ceil(side / np.array(spacing)), seen.shape).astype(int)
    first = np.clip((low + high - size) // 2, 0, seen.shape - size)
    return tuple(slice(start, start + n) for start, n in zip(first.tolist(), size.tolist(), strict=True))
