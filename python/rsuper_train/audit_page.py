# SPDX-License-Identifier: Apache-2.0
"""The page of an audit, in one file: the ranking, pictures of the first cases, and what was not scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rsuper_train import pages
from rsuper_train.audit import Audit, CaseScore
from rsuper_train.audit_scores import SCORES, WEIGHTS, SiteScore, view
from rsuper_train.pictures import BALL, LUNG, PREDICTION, REGION, SOFT_TISSUE, Layer, Style, draw_slice

LISTED = 200
"""Cases in the table, and ids for each reason of those not scored; the lists beside the page have all."""
SHOWN = 20
"""Cases with pictures."""
SITES = 3
"""Pictures of a case."""
WIDTH = 7.0
"""Inches of a picture."""
LUNG_MEDIAN = -300.0
"""HU below which a region's median is that of lung."""
COLOURS = {"region": REGION, "ball": BALL, "prediction": PREDICTION}
LOOKS: tuple[tuple[str, Style], ...] = ((REGION, "-"), (BALL, "--"), (PREDICTION, "fill"))


def write_page(path: Path, result: Audit, name: str, threshold: float) -> None:
    """Write the page about an audit against the table of reports called `name`; it needs nothing but itself.

    Args:
        path: of the page.
        result: whose crops are still on disk.
        name: of the table.
        threshold: probability from which a voxel is drawn as tumour.
    """
    left_out: dict[str, list[str]] = {}
    for id, reason in result.left_out.items():
        left_out.setdefault(reason, []).append(id)
    pages.write(
        path,
        "audit.html.j2",
        name=name,
        result=result,
        cases=[(case, _pictures(case, threshold)) for case in result.ranked[:SHOWN]],
        left_out=left_out,
        scores=SCORES,
        weights=WEIGHTS,
        listed=LISTED,
        colours=COLOURS,
        threshold=threshold,
    )


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
    is_lung = seen.region.any() and np.median(seen.ct[seen.region]) < LUNG_MEDIAN
    volumes = (seen.ct, seen.region, seen.balls & predicted.any(), predicted)
    depth, height, width = np.multiply(seen.ct.shape, score.site.spacing)
    figure = Figure((WIDTH, WIDTH / 2 * min(max(depth, height) / width, 2)), facecolor="black", layout="constrained")
    for axis, along, name in zip(figure.subplots(1, 2), (0, 1), ("axial", "coronal"), strict=True):
        level = int(telling.sum(tuple({0, 1, 2} - {along})).argmax())
        ct, *masks = (volume.take(level, along) for volume in volumes)
        layers = [Layer(mask, *look) for mask, look in zip(masks, LOOKS, strict=True)]
        spacing = [step for i, step in enumerate(score.site.spacing) if i != along]
        draw_slice(axis, ct, spacing, layers, LUNG if is_lung else SOFT_TISSUE)
        axis.set_title(name, color="white", fontsize=9)
    return pages.image(figure)
