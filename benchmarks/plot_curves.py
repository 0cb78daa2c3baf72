# SPDX-License-Identifier: Apache-2.0
"""Cost curves as small multiples, medians with quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, str]

# colour says which loss, the line whose and in which state
STYLES = {
    "ball loss, plain torch": {"color": "tab:blue", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    "ball loss, untrained": {"color": "tab:cyan", "linestyle": "-", "marker": "o"},
    "ball loss": {"color": "tab:blue", "linestyle": "-", "marker": "o"},
    "volume loss, plain torch": {"color": "tab:orange", "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
    "volume loss": {"color": "tab:orange", "linestyle": "-", "marker": "o"},
    "copy": {"color": "0.4", "linestyle": ":", "marker": "."},
}
LABELS = {
    "ball loss": "ball loss, trained network",
    "ball loss, plain torch": "ball loss in plain torch (FFTs on the region's box)",
    "ball loss, untrained": "ball loss, untrained network (p ≈ 0.5)",
    "volume loss, plain torch": "volume loss in plain torch",
    "copy": "copy of the logits (read, and write as much)",
}
# every second size and diameter; their neighbours' labels would touch
TICKS = {"edge": (48, 64, 96, 128, 192), "diameter": (5, 9, 17, 25, 41, 80)}


def plot(rows: Sequence[Row], path: Path) -> None:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        axes = figure.subplots(2, 3, sharey=True).flat
        for ax, panel in zip(axes, panels, strict=False):
            _panel(ax, panel, [row for row in rows if row["panel"] == panel])
        for ax in (axes[0], axes[3]):
            ax.set_ylabel("ms, forward and backward")
        _legend(axes[len(panels)], figure, rows[0])
        figure.suptitle(
            "Report losses on the CPU: B = 2, 3 lesion channels; 128³, 3 tumours, float32, 2 threads where not varied",
            fontsize=10,
        )
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(ax: Axes, panel: str, rows: Sequence[Row]) -> None:
    values = list(dict.fromkeys(row["x"] for row in rows))
    numeric = all(value.isdigit() for value in values) and panel != "threads"
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(values)}
    for name, style in STYLES.items():
        series = [row for row in rows if row["series"] == name]
        x, y = [places[row["x"]] for row in series], [float(row["ms"]) for row in series]
        ax.plot(x, y, markersize=4, label=LABELS.get(name, name), **style)
        low, high = ([float(row[key]) for row in series] for key in ("first_quartile", "third_quartile"))
        ax.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set_yscale("log")
    ax.set_xlabel(panel)
    ax.grid(which="major", alpha=0.3)
    if numeric:
        ax.set_xscale("log")
        ticks = next((ticks for key, ticks in TICKS.items() if panel.startswith(key)), map(int, values))
        ax.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks] if isinstance(ticks, tuple) else values, minor=False)
        ax.minorticks_off()
    else:
        ax.set_xticks(list(places.values()), values)
        ax.margins(x=0.2)


def _legend(ax: Axes, figure: Figure, source: Row) -> None:
    ax.axis("off")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    ax.legend(handles, labels, loc="upper left", frameon=False)
    ax.text(
        0.03,
        0.05,
        f"{source['cpu']}, torch {source['torch']},\ncommit {source['commit']}; bands: quartiles",
        transform=ax.transAxes,
        color="0.4",
        fontsize=8,
    )
