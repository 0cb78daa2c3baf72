# SPDX-License-Identifier: Apache-2.0
"""What is measured: a training step for each row of the figures, and ours against the baselines on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import baselines
from benchmarks.inputs import BIG_TUMOURS, SPACING, TUMOURS, Scene, compat_volume, scene, total_inputs
from rsuper_kernels import ReportSupervisedLoss, ball_loss, compat, volume_loss

MEMORY_AT_MOST = 0.25
"""Peak memory of a step beside inputs and gradients, in sizes of the logits."""

SceneLoss = Callable[[torch.Tensor, Scene], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """Forward and backward: what one training step pays for the loss."""

    logits: Sequence[torch.Tensor]
    """Leaves, one a head."""
    loss: Callable[..., torch.Tensor]

    @classmethod
    def of(cls, loss: Callable[..., torch.Tensor], *logits: torch.Tensor) -> Step:
        return cls([x.detach().requires_grad_() for x in logits], loss)

    def __call__(self) -> torch.Tensor:
        self.clear()
        loss = self.loss(*self.logits)
        loss.backward()
        return loss.detach()

    def clear(self) -> None:
        for x in self.logits:
            x.grad = None

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.logits)


@dataclass(frozen=True)
class Case:
    """A row of the figures."""

    title: str
    prepare: Callable[[int], Step]
    """From the edge of the patch."""
    at_most: float
    """Copies of the logits."""
    beyond: str = ""
    """The case whose measured copies `at_most` comes on top of."""
    edge: int = 128
    bound: str = ""
    """What bounds its time or memory, should it not be met; the tables print it."""

    def step(self) -> Step:
        return self.prepare(self.edge)


# --- the losses, of a scene


def volume(logits: torch.Tensor, inputs: Scene, **options: Any) -> torch.Tensor:
    return volume_loss(logits, inputs.findings, inputs.label_map, SPACING, **options)


def ball(logits: torch.Tensor, inputs: Scene, **options: Any) -> torch.Tensor:
    return sum(ball_loss(logits, inputs.findings, inputs.label_map, SPACING, **options))


def on_scene(loss: SceneLoss, tumours: tuple[float, ...] = TUMOURS[3], **options: Any) -> Callable[[int], Step]:
    """Prepare a step of `loss` on a scene with these tumours."""

    def prepare(edge: int) -> Step:
        inputs = scene(tumours, edge=edge, **options)
        return Step.of(lambda x: loss(x, inputs), inputs.logits)

    return prepare


def _ball_from_masks(edge: int) -> Step:
    inputs = scene(TUMOURS[3], edge=edge)
    masks, findings = inputs.masks, inputs.mask_findings
    return Step.of(lambda x: sum(ball_loss(x, findings, masks, SPACING)), inputs.logits)


def _compat_volume(edge: int) -> Step:
    inputs = scene(TUMOURS[3], edge=edge)
    given = compat_volume(inputs)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        losses = compat.volume_loss_basic(
            logits, given.chosen, given.volumes, given.labels, given.unknown, given.classes
        )
        return losses["dice_volume_loss"]

    return Step.of(loss, inputs.logits)


def _both(edge: int) -> Step:
    inputs, criterion = scene(TUMOURS[3], edge=edge), ReportSupervisedLoss(attenuation_weight=0)
    return Step.of(lambda x: criterion(x, inputs.findings, inputs.label_map, SPACING)["total"], inputs.logits)


def _total(edge: int) -> Step:
    given = total_inputs(edge)

    def loss(*heads: torch.Tensor) -> torch.Tensor:
        losses = compat.calculate_loss(
            {"segmentation": list(heads)},
            given.label,
            given.unknown,
            given.args,
            None,
            given.chosen,
            given.volumes,
            given.diameters,
            given.classes,
        )
        return losses["overall"]

    return Step.of(loss, *given.heads)


# What bounds the rows that may miss their limit. The limits were set where copies take several times longer.
ARITHMETIC = (
    "Two exponentials for each voxel of the reported planes, one in each direction: arithmetic, which fast memory does "
    "not speed up (the probabilities of the forward pass could be kept, in a third of the memory of the logits)"
)
GRADIENT = (
    "The gradient has to be written, and beside it stand the dilation by 15 mm and the fixed cost of Python and "
    "autograd, which do not shrink with the copy"
)
MASKS = "Reading the two float masks moves as many bytes as a copy; the rest as for the label map"
PLATEAU = "On a plateau of equal probabilities no bound prunes: every centre of the region is scored"
SHARE = "The second loss costs no second read of the logits, but its share of Python and autograd"
TIES = (
    "The public code's order of tied ranks, which compat keeps, comes from sorting the whole patch; most of the rest "
    "is exponentials"
)

CASES = {
    "volume": Case("volume loss, label map", on_scene(volume), 1.0, bound=GRADIENT),
    "volume-compat": Case("volume loss through compat, float masks", _compat_volume, 2.0, bound=MASKS),
    "ball-1": Case("ball loss, 1 tumour, trained", on_scene(ball, TUMOURS[1]), 2.3, bound=ARITHMETIC),
    "ball-3": Case("ball loss, 3 tumours, trained", on_scene(ball, TUMOURS[3]), 2.7, bound=ARITHMETIC),
    "ball-3-masks": Case("ball loss, 3 tumours, trained, uint8 masks", _ball_from_masks, 2.7, bound=ARITHMETIC),
    "ball-10": Case("ball loss, 10 tumours, trained", on_scene(ball, TUMOURS[10]), 4.3, bound=ARITHMETIC),
    "ball-big": Case(
        "ball loss, tumours of 61, 41 and 25 mm, trained",
        on_scene(ball, BIG_TUMOURS, organ="large"),
        9.0,
        bound=ARITHMETIC,
    ),
    "untrained-1": Case(
        "ball loss, 1 tumour, untrained", on_scene(ball, TUMOURS[1], trained=False), 5.0, bound=PLATEAU
    ),
    "untrained-3": Case(
        "ball loss, 3 tumours, untrained", on_scene(ball, TUMOURS[3], trained=False), 7.0, bound=PLATEAU
    ),
    "untrained-10": Case(
        "ball loss, 10 tumours, untrained", on_scene(ball, TUMOURS[10], trained=False), 14.0, bound=PLATEAU
    ),
    "both": Case("volume and ball loss in one call, 3 tumours, trained", _both, 0.2, beyond="ball-3", bound=SHARE),
    "total": Case("calculate_loss, two heads, 42 classes, 96^3", _total, 4.0, edge=96, bound=TIES),
}


# --- ours against others


@dataclass(frozen=True)
class Comparison:
    """A baseline's step and ours on the same inputs."""

    title: str
    ours: SceneLoss
    theirs: SceneLoss
    at_least: float
    """Times as fast."""
    scene_options: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    """Takes seconds: one repetition has to do."""
    bound: str = ""
    """What bounds it, should it not be met."""

    def steps(self) -> tuple[Step, Step]:
        """Ours and theirs."""
        inputs = scene(**{"edge": 128, **self.scene_options})
        ours, theirs = (Step.of(lambda x, f=f: f(x, inputs), inputs.logits) for f in (self.ours, self.theirs))
        return ours, theirs


def competing_volume(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    return baselines.volume_loss(logits, inputs.findings, inputs.label_map)


def competing_ball(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    return baselines.ball_loss(logits, inputs.findings, inputs.label_map)


def dense_volume(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    return baselines.volume_loss(logits, inputs.findings, inputs.label_map, baselines.DENSE)


def dense_ball(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    return baselines.ball_loss(logits, inputs.findings, inputs.label_map, baselines.DENSE)


def cascade_volume(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    """Dilated in passes, as the dense formulation does."""
    return volume(logits, inputs, dilation="cascade")


def cascade_ball(logits: torch.Tensor, inputs: Scene) -> torch.Tensor:
    return ball(logits, inputs, dilation="cascade")


FLOOR = "So many times its speed would be less than a copy of the logits"
SMALL = "On a small patch the fixed cost of Python and autograd weighs most; the ratio grows with patch and tumour"
DENSE = "Written leaner than the public code: kernels trimmed to the ball, only reported planes dilated"

COMPARISONS = {
    "volume": Comparison("volume loss", volume, competing_volume, 15.0, bound=FLOOR),
    "ball-3": Comparison("ball loss, 3 tumours, trained", ball, competing_ball, 10.0, bound=ARITHMETIC),
    "ball-10": Comparison(
        "ball loss, 10 tumours, trained", ball, competing_ball, 10.0, {"tumours": TUMOURS[10]}, bound=ARITHMETIC
    ),
    "untrained-3": Comparison(
        "ball loss, 3 tumours, untrained", ball, competing_ball, 10.0, {"trained": False}, bound=PLATEAU
    ),
    "ball-big": Comparison(
        "ball loss, tumours of 61, 41 and 25 mm, trained",
        ball,
        competing_ball,
        10.0,
        {"tumours": BIG_TUMOURS, "organ": "large"},
        bound=ARITHMETIC,
    ),
    # the larger the tumour, the worse for dense convolutions: 61 mm would take minutes
    "dense-volume": Comparison("volume loss", cascade_volume, dense_volume, 1000.0, slow=True, bound=FLOOR),
    "dense-ball-small": Comparison(
        "ball loss, 17 and 11 mm, 64^3",
        cascade_ball,
        dense_ball,
        1000.0,
        {"edge": 64, "tumours": (17.0, 11.0)},
        slow=True,
        bound=SMALL,
    ),
    "dense-ball": Comparison(
        "ball loss, 1 tumour of 25 mm",
        cascade_ball,
        dense_ball,
        1000.0,
        {"tumours": TUMOURS[1]},
        slow=True,
        bound=DENSE,
    ),
}


def assert_agree(ours: Step, theirs: Step, values: Sequence[torch.Tensor] | None = None) -> None:
    """Equal losses to 1e-4 (of 0.01 at least), and equal gradients but for a few voxels, whose ranks may swap by
    rounding. `values` are the losses of steps that were already taken; without them, each takes one."""
    mine, other = (step() for step in (ours, theirs)) if values is None else values
    assert abs(mine - other) <= 1e-4 * max(abs(mine), 0.01), f"the losses differ: {mine}, {other}"
    for x, y in zip(ours.logits, theirs.logits, strict=True):
        differing = ((x.grad - y.grad).abs() > 1e-3 * x.grad.abs().max()).sum()
        assert differing <= 4, f"the gradients differ at {differing} voxels"
