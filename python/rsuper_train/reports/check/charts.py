# SPDX-License-Identifier: Apache-2.0
"""Charts of a table of reports, as SVG that stands inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from rsuper_train.reports.schema import Tumour

WIDTH = 9.6  # inches
INK, FAINT = "#24292f", "#d5dae1"
KNOWN_COLOUR, UNKNOWN_COLOUR = "#2f6f9f", "#c6d3df"
ATTENUATION_COLOURS = {
    "hypo": "#2f6f9f",
    "iso": "#8fb8a8",
    "hyper": "#d9822b",
    "mixed": "#8e6bb0",
    "unknown": "#dfe3e8",
}
BINS = np.geomspace(1, 500, 28)
TICKS = (1, 3, 10, 30, 100, 300)
COLUMNS = 4
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rsuper",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
}


def organs_chart(tumours: Sequence[Tumour]) -> str:
    """Tumours per organ, those with a size and those without."""
    groups = {"with a size": lambda t: t.size_known, "without": lambda t: not t.size_known}
    colours = {"with a size": KNOWN_COLOUR, "without": UNKNOWN_COLOUR}
    counts = {name: [sum(map(test, some)) for _, some in _by_organ(tumours)] for name, test in groups.items()}
    return _bars([organ for organ, _ in _by_organ(tumours)], counts, colours)


def attenuation_chart(tumours: Sequence[Tumour]) -> str:
    """Attenuation per organ."""
    counts = {
        name: [sum(tumour.attenuation == name for tumour in some) for _, some in _by_organ(tumours)]
        for name in ATTENUATION_COLOURS
    }
    return _bars([organ for organ, _ in _by_organ(tumours)], counts, ATTENUATION_COLOURS)


def diameters_chart(tumours: Sequence[Tumour]) -> str:
    """Histogram of the largest diameter for each organ, on one logarithmic axis; empty without any size."""
    sized = _by_organ([tumour for tumour in tumours if tumour.size_known])
    if not sized:
        return ""
    rows = -(-len(sized) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.65 * rows + 0.35), layout="constrained")
        axes = list(figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat)
        for axis, (organ, some) in zip(axes, sized, strict=False):
            sizes = [max(tumour.diameters) for tumour in some]
            axis.hist(np.clip(sizes, BINS[0], BINS[-1]), BINS, color=KNOWN_COLOUR)
            axis.set_xscale("log")
            axis.set_xticks(TICKS, map(str, TICKS))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.tick_params(labelbottom=True, labelsize=8)
            axis.set_title(f"{organ}: median {np.median(sizes):.3g} mm", fontsize=9, loc="left")
            _strip(axis)
        for axis in axes[len(sized) :]:
            axis.set_visible(False)
        figure.supxlabel("largest diameter, mm", fontsize=9)
        return _svg(figure)


def _by_organ(tumours: Iterable[Tumour]) -> list[tuple[str, list[Tumour]]]:
    """Tumours of each organ, the commonest first."""
    organs: dict[str, list[Tumour]] = {}
    for tumour in tumours:
        organs.setdefault(tumour.organ, []).append(tumour)
    return sorted(organs.items(), key=lambda item: (-len(item[1]), item[0]))


def _bars(organs: Sequence[str], counts: dict[str, list[int]], colours: dict[str, str]) -> str:
    """Horizontal bars in sections, one bar for each organ; empty without any organ."""
    if not organs:
        return ""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.3 * len(organs) + 0.8), layout="constrained")
        axis = figure.subplots()
        left = np.zeros(len(organs))
        for name, values in counts.items():
            axis.barh(range(len(organs)), values, left=left, color=colours[name], height=0.72, label=name)
            left += values
        for row, total in enumerate(left):
            axis.annotate(f"{total:.0f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axis.set_yticks(range(len(organs)), organs)
        axis.set(ylim=(len(organs) - 0.5, -0.5), xlim=(0, 1.07 * left.max()))
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("tumours")
        _strip(axis)
        figure.legend(
            loc="outside upper left", ncols=len(counts), frameon=False, fontsize=9, handlelength=1, handleheight=1
        )
        return _svg(figure)


def _strip(axis: Axes) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _svg(figure: Figure) -> str:
    """The <svg> element alone, sized by the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'\s(?:width|height)="[\d.]+pt"', "", text, count=2)
