# SPDX-License-Identifier: Apache-2.0
"""How far a prediction is from a report, one site at a time, measured with the losses that train on reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from rsuper_kernels import FindingGroup, Findings, attenuation_loss, ball_loss, pseudo_masks, volume_loss
from rsuper_train.audit_sites import Site
from rsuper_train.axes import Spacing
from rsuper_train.masks import component_volumes
from rsuper_train.store import open_volume

SCORES = {
    "volume": "volume loss: predicted against reported volume, within 15 mm of the region; 0 within 10 %",
    "location": "ball loss, mean of Dice and 1 - exp(-cross-entropy): 0 where balls of the reported sizes, and nothing "
    "beside them, are predicted surely; 1 where nothing is",
    "count": "share of tumours predicted too many or too few; components from 15 mm³ count",
    "attenuation": "attenuation loss, at most 1: by how many standard deviations of the organ's HU the predicted "
    "tumour is darker or brighter where it should not be; only where one is predicted",
    "false positive": "volume loss of what is predicted where the report says there is no tumour, or elsewhere in an "
    "organ, all tumours of which it is taken to list; 0.5 at 0.5 ml",
}
"""The scores, all between 0 and 1, and what they mean."""
WEIGHTS = dict.fromkeys(SCORES, 1.0) | {"false positive": 2.0}
"""Of the scores in a case's total. A missed tumour shows in three of them, a false one in one."""
NAMED = 0.2
"""A score from which it is named as a reason."""
SMALLEST = 15.0
"""mm3 below which a component is not counted: a ball of 3 mm."""
NEARLY_ZERO = 1e-6
"""Stands for probability 0, so that its logit is finite."""


class View(NamedTuple):
    """A site's crop as its scores see it: arrays (D, H, W), `logits` (1, 1, D, H, W), `labels` (1, D, H, W)."""

    probability: np.ndarray
    """Of the site's channel, 0 where other groups speak."""
    logits: torch.Tensor
    ct: np.ndarray
    labels: torch.Tensor
    region: np.ndarray
    around: np.ndarray
    """The region and its margin, where its tumours may be; of a site without tumours, the region."""
    balls: np.ndarray
    """Where the reported tumours are seen best."""


@dataclass(frozen=True)
class SiteScore:
    """A site's scores by name, without those that do not apply.

    Args:
        site: what is scored.
        scores: from 0 to 1.
        predicted: mm3, the sum of the probabilities.
        components: predicted tumours.
        contrast: HU by which the prediction is brighter than the organ; None without either.
    """

    site: Site
    scores: dict[str, float]
    predicted: float
    components: int
    contrast: float | None = None

    @property
    def worst(self) -> float:
        return max(self.scores.values())

    @property
    def reasons(self) -> list[str]:
        """In words, what prediction and report disagree about."""
        return list(_reasons(self)) if self.worst >= NAMED else []


def view(site: Site) -> View:
    """Read a site's crop, leave out what its scores are not about, and place the reported tumours."""
    stored = open_volume(site.crop)[...]
    probability, ct, labels = stored[0].view(np.float16).astype(np.float32), stored[1], torch.from_numpy(stored[2:])
    region = around = among(stored[2], site.group.label_ids)
    balls = np.zeros_like(region)
    for group in site.reported:
        taken, _ = _placed(group, _logits(probability), labels, site.spacing)
        probability[taken] = 0
    probability[among(stored[2], site.foreign)] = 0
    logits = _logits(probability)
    if site.kind == "reported":
        around, balls = _placed(site.group, logits, labels, site.spacing)
    return View(probability, logits, ct, labels, region, around, balls)


def score_site(site: Site, threshold: float) -> SiteScore:
    """Score a site; a voxel is predicted tumour from the probability `threshold`."""
    seen, findings = view(site), _findings(site.group)
    inputs = (findings, seen.labels, site.spacing)
    voxel = math.prod(site.spacing)
    mask = (seen.probability >= threshold) & seen.around
    found = int((component_volumes(mask, voxel) >= SMALLEST).sum())
    predicted = float(seen.probability[seen.around].sum(dtype=np.float64)) * voxel
    volume = float(volume_loss(seen.logits, *inputs))
    if site.kind != "reported":
        return SiteScore(site, {"false positive": volume}, predicted, found)
    bce, dice = ball_loss(seen.logits, *inputs, known=torch.zeros_like(seen.logits, dtype=torch.bool))
    location = (1 - math.exp(-float(bce)) + float(dice)) / 2
    scores = {"volume": volume, "location": location, "count": _count_score(site.group, found)}
    organ = seen.region & ~mask
    if not found or not organ.any():
        return SiteScore(site, scores, predicted, found)
    if site.group.count_known and _attenuation(site.group) in ("hypo", "iso", "hyper"):
        ct = torch.from_numpy(seen.ct.astype(np.float32))[None]
        scores["attenuation"] = min(float(attenuation_loss(seen.logits, ct, *inputs)), 1.0)
    return SiteScore(site, scores, predicted, found, float(seen.ct[mask].mean() - seen.ct[organ].mean()))


def among(labels: np.ndarray, ids: Iterable[int]) -> np.ndarray:
    """Where the labels, of at least 0, are among the ids; a table is faster than np.isin."""
    table = np.zeros(np.iinfo(np.int16).max + 1, bool)
    table[list(ids)] = True
    return table[labels]


def _placed(
    group: FindingGroup, logits: torch.Tensor, labels: torch.Tensor, spacing: Spacing
) -> tuple[np.ndarray, np.ndarray]:
    """The group's region with its margin, and its tumours' balls."""
    masks = pseudo_masks(logits, _findings(group), labels, spacing, known=torch.zeros_like(logits, dtype=torch.bool))
    # where no label is known, a plane is raised, lowered or tolerated in the margin alone
    return (masks.core | masks.tolerated | masks.penalised)[0].numpy(), masks.body[0].numpy()


def _findings(group: FindingGroup) -> Findings:
    return Findings((replace(group, channel=0),))


def _logits(probability: np.ndarray) -> torch.Tensor:
    return torch.logit(torch.from_numpy(probability), NEARLY_ZERO)[None, None]


def _count_score(group: FindingGroup, found: int) -> float:
    reported = len(group.tumours)
    return 0.0 if found > reported and not group.count_known else abs(found - reported) / max(found, reported)


def _attenuation(group: FindingGroup) -> str:
    """The common attenuation of the tumours, if they have one."""
    words = {tumour.attenuation for tumour in group.tumours}
    return words.pop() if len(words) == 1 else "mixed"


def _reasons(score: SiteScore) -> Iterator[str]:
    group, name = score.site.group, score.site.name
    high = {name for name, value in score.scores.items() if value >= NAMED}
    sizes = ", ".join(f"{t.largest_diameter:.3g} mm" if t.size_known else "a tumour" for t in group.tumours)
    if score.site.kind == "negative":
        yield f"predicted {_ml(score.predicted)} in the {name}, which the report calls free of tumours"
    elif score.site.kind == "elsewhere":
        yield f"predicted {_ml(score.predicted)} in the {name} outside of the reported places"
    elif not score.components:
        yield f"reported {sizes} in the {name}: nothing predicted there"
    else:
        if "volume" in high:
            reported = sizes if group.open_ended else _ml(group.volume)
            yield f"reported {reported} in the {name}, predicted {_ml(score.predicted)}"
        if "count" in high:
            count = len(group.tumours)
            yield f"reported {count} tumour{'s' * (count > 1)} in the {name}, predicted {score.components}"
        if "attenuation" in high and score.contrast is not None:
            side = "brighter" if score.contrast > 0 else "darker"
            yield (
                f"reported {_attenuation(group)}attenuating in the {name}, predicted where the CT is "
                f"{abs(score.contrast):.0f} HU {side} than the rest"
            )
        if "location" in high:
            yield f"reported {sizes} in the {name}: no clear ball of that size"


def _ml(volume: float) -> str:
    """mm3 as ml."""
    return f"{volume / 1000:.2g} ml" if volume < 99_500 else f"{volume / 1000:.0f} ml"
