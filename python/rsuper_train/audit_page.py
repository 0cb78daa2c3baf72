# SPDX-License-Identifier: Apache-2.0
"""The page of an audit, in one file: the ranking, pictures of the first cases, and what was not scored."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from rsuper_train.audit import Audit, CaseScore
from rsuper_train.audit_scores import SCORES, WEIGHTS, SiteScore, view
from rsuper_train.files import write_atomically

LISTED = 200
"""Cases in the table, and ids for each reason of those not scored; the lists beside the page have all."""
SITES = 3
"""Pictures of a case."""
WIDTH = 7.0
"""Inches of a picture."""
WINDOW, LUNG_WINDOW = (-110.0, 190.0), (-1000.0, 200.0)
"""HU of black and white; lungs are where the region's median is below LUNG."""
LUNG = -300.0
COLOURS = {"region": "#8ab4ff", "prediction": "#ff4fa3", "ball": "#ffb000"}


def write_page(
    path: Path, result: Audit, name: str, threshold: float, shown: int = 20, weights: Mapping[str, float] = WEIGHTS
) -> None:
    """Write the page about an audit against the table of reports called `name`; it needs nothing but itself.

    Args:
        path: of the page.
        result: whose crops are still on disk.
        name: of the table.
        threshold: probability from which a voxel is drawn as tumour.
        shown: cases with pictures.
        weights: of the scores in the total.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rsuper_train", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    left_out: dict[str, list[str]] = {}
    for id, reason in result.left_out.items():
        left_out.setdefault(reason, []).append(id)
    text = environment.get_template("audit.html.j2").render(
        name=name,
        result=result,
        cases=[(case, _pictures(case, threshold)) for case in result.ranked[:shown]],
        left_out=left_out,
        scores=SCORES,
        weights=weights,
        listed=LISTED,
        colours=COLOURS,
    )
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def _pictures(case: CaseScore, threshold: float) -> list[tuple[SiteScore, str]]:
    """The case's worst sites, each with its image in a data URI."""
    reported = [score for score in case.sites if score.site.kind == "reported"]
    telling = [score for score in case.sites if score.reasons] or reported[:1]
    return [(score, _picture(score, threshold)) for score in telling[:SITES]]


def _picture(score: SiteScore, threshold: float) -> str:
    """An axial and a coronal slice through what is predicted, at least faintly, or else through the region."""
    seen = view(score.site)
    predicted = (seen.probability >= threshold) & seen.around
    faint = (seen.probability > 0) & seen.around
    telling = next((mask for mask in (predicted, faint) if mask.any()), seen.region)
    window = LUNG_WINDOW if seen.region.any() and np.median(seen.ct[seen.region]) < LUNG else WINDOW
    outlines = {"region": seen.region, "ball": seen.balls & predicted.any()}
    depth, height, width = np.multiply(seen.ct.shape, score.site.spacing)
    figure = Figure((WIDTH, WIDTH / 2 * min(max(depth, height) / width, 2)), facecolor="black", layout="constrained")
    for axis, along, label in zip(figure.subplots(1, 2), (0, 1), ("axial", "coronal"), strict=True):
        level = int(telling.sum(tuple({0, 1, 2} - {along})).argmax())
        masks = {name: mask.take(level, along) for name, mask in (outlines | {"prediction": predicted}).items()}
        _draw(axis, seen.ct.take(level, along), masks, [score.site.spacing[i] for i in range(3) if i != along], window)
        axis.set_title(label, color="white", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _draw(
    axis: Axes, ct: np.ndarray, masks: Mapping[str, np.ndarray], spacing: Sequence[float], window: tuple[float, float]
) -> None:
    """A slice, head or front up, the patient's right on the left; lengths in mm."""
    y, x = ((np.arange(n) + 0.5) * mm for n, mm in zip(ct.shape, spacing, strict=True))
    top, right = np.multiply(ct.shape, spacing)
    box = (0, right, 0, top)
    axis.imshow(ct, cmap="gray", vmin=window[0], vmax=window[1], extent=box, origin="lower", interpolation="bicubic")
    for name, mask in masks.items():
        if mask.any() and min(mask.shape) > 1:
            soft = ndimage.gaussian_filter(mask.astype(float), 0.6)
            if name == "prediction":
                axis.contourf(x, y, soft, levels=[0.5, 2], colors=[COLOURS[name]], alpha=0.45)
            else:
                style = "--" if name == "ball" else "-"
                axis.contour(x, y, soft, levels=[0.5], colors=[COLOURS[name]], linewidths=1.3, linestyles=style)
    axis.set(xlim=(right, 0), ylim=(0, top), aspect="equal")
    axis.set_axis_off()
    axis.plot([right - 3, right - 23], [0.04, 0.04], "w-", lw=2.5, transform=axis.get_xaxis_transform())
    axis.annotate("20 mm", (right - 3, 0.04), (0, 3), axis.get_xaxis_transform(), "offset points", color="white")
