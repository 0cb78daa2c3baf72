# SPDX-License-Identifier: Apache-2.0
"""The figures of a GPU as they were measured, as a page, and as a plot."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def page(figures: Mapping[str, Any]) -> str:
    """Markdown."""
    machine = figures["machine"]
    caption = (
        f"Written by `make bench-gpu`: {machine['memory_gb']} GB, CUDA {machine['cuda']}, torch {machine['torch']}, "
        f"commit {machine['commit']}. Medians of the device's own clock, launches included. GB/s are of the bytes that "
        "no implementation saves (reported logits read twice, all gradients written, regions as bits), beside those of "
        "a copy."
    )
    parts = [f"# {machine['gpu']}", caption]
    if figures["losses"]:
        parts.append(loss_table(figures["losses"]))
    if figures["ops"]:
        parts.append(op_table(figures["ops"]))
    for row in figures["training"].values():
        parts.append(
            f"A training step ({row['title']}, {row['size']}): {row['ms']:.1f} ms, of which losses "
            f"{row['losses_ms']:.2f} ms, {100 * row['share']:.1f} %."
        )
    return "\n\n".join(parts) + "\n"


def loss_table(rows: Mapping[str, Row]) -> str:
    names = ["forward and backward", "size", "dtype", "ms", "copies", "GB/s", "copy GB/s", "extra memory"]
    names += ["reference, ms", "plain torch, ms"]
    lines = [_line(names), _line(["---"] * len(names))]
    for row in rows.values():
        others = [f"{row[name]:.1f}" if name in row else "" for name in ("reference_ms", "plain_ms")]
        lines.append(
            _line(
                [
                    row["title"],
                    row["size"],
                    row["dtype"],
                    f"{row['ms']:.3f}",
                    f"{row['copies']:.1f}",
                    f"{row['gb_per_s']:.0f}",
                    f"{row['copy_gb_per_s']:.0f}",
                    f"{row['extra_bytes'] / row['logits_bytes']:.2f}",
                    *others,
                ]
            )
        )
    return "\n".join(lines)


def op_table(rows: Mapping[str, Row]) -> str:
    names = ["op", "impl", "size", "ms"]
    lines = [_line(names), _line(["---"] * len(names))]
    lines += [_line([row["title"], row["impl"], row["size"], f"{row['ms']:.3f}"]) for row in rows.values()]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Copies of the logits that each loss takes, by size, beside plain torch."""
    from matplotlib.figure import Figure

    rows = list(figures["losses"].values())
    titles, sizes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("title", "size"))
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    bars = [(size, dtype) for size in sizes for dtype in ("fp32", "bf16")]
    width = 0.8 / max(len(bars), 1)
    for index, (size, dtype) in enumerate(bars):
        found = [row for row in rows if (row["size"], row["dtype"]) == (size, dtype)]
        places = [titles.index(row["title"]) + (index - len(bars) / 2 + 0.5) * width for row in found]
        ax.bar(places, [row["copies"] for row in found], width, label=f"{size}, {dtype}")
    plain = [row for row in rows if "plain_ms" in row]
    ax.plot(
        [titles.index(row["title"]) for row in plain],
        [row["plain_ms"] / row["copy_ms"] for row in plain],
        "k_",
        markersize=24,
        label="plain torch, smallest size, fp32",
    )
    ax.set_yscale("log")
    ax.set_xticks(range(len(titles)), titles, fontsize=8)
    ax.set_ylabel("copies of the logits")
    ax.set_title(f"Report losses on {figures['machine']['gpu']}, forward and backward", fontsize=10)
    ax.legend(fontsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write(figures: Mapping[str, Any], folder: Path) -> Path:
    """<device>.json, .md and .png; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / re.sub(r"\W+", "-", str(figures["machine"]["gpu"])).strip("-").lower()
    rounded = json.loads(json.dumps(figures), parse_float=lambda number: round(float(number), 4))
    path = stem.with_suffix(".json")
    path.write_text(json.dumps(rounded, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page(rounded))
    if figures["losses"]:
        plot(rounded, stem.with_suffix(".png"))
    return path
