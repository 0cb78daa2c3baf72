# SPDX-License-Identifier: Apache-2.0
"""All tumours of both samples at once, in blobs that a trained network shows and in the noise of an untrained one."""

import math
from collections.abc import Sequence

import pytest
import torch

from benchmarks.conftest import working
from benchmarks.inputs import SPACING, Scene
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.geometry import ball_element, growth_radii
from rsuper_kernels.ops.ball_select import foreground_weights
from rsuper_kernels.ops.dilate import dilate
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls

SETS = {"1": (25.0,), "3": (25.0, 17.0, 11.0), "10": (25.0, 17.0, 13.0, 11.0, 9.0, 9.0, 7.0, 7.0, 5.0, 5.0)}


def regions(inputs: Scene) -> BitMasks:
    return pack_masks(dilate(inputs.label_map == 1, ball_element(15.0)))


def logits_of(inputs: Scene, network: str, diameters: Sequence[float]) -> torch.Tensor:
    """ "trained": one blob a tumour, apart from each other inside the organ; "untrained": p about 0.5 everywhere."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(inputs.logits.shape, generator=generator)
    if network == "untrained":
        return 0.1 * noise
    organ = (inputs.label_map[0] == 1).nonzero()
    axis = torch.arange(noise.shape[-1])
    logits = -5 + 0.5 * noise
    taken: list[tuple[torch.Tensor, float]] = []
    for diameter in diameters:
        for _ in range(1000):
            centre = organ[torch.randint(len(organ), (), generator=generator)]
            if all((centre - other).float().norm() > (diameter + size) / 2 + 2 for other, size in taken):
                break
        taken.append((centre, diameter))
        squares = [(axis - at) ** 2 for at in centre.tolist()]
        logits[..., squares[0][:, None, None] + squares[1][:, None] + squares[2] < diameter**2 / 4] += 8
    return logits


def tumours(diameters: Sequence[float], mask: int, shape: Sequence[int]) -> list[Ball]:
    out = []
    for diameter in diameters:
        count = round(math.pi / 6 * diameter**3)
        radii = tuple(growth_radii(diameter, 0.2, shape, SPACING))
        out.append(
            Ball(mask, diameter, radii, count, (max(int(0.8 * count), min(100, count)), count, int(1.2 * count)))
        )
    return out


@pytest.mark.parametrize("network", ["trained", "untrained"])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("impl", working("place_balls"))
@pytest.mark.benchmark(group="place_balls")
def test_place_balls(benchmark, inputs: Scene, network: str, name: str, impl: str) -> None:
    logits, masks = logits_of(inputs, network, SETS[name]), regions(inputs)
    planes = range(len(logits))
    balls = [tumours(SETS[name], p, logits.shape[2:]) for p in planes]
    benchmark(place_balls, logits, masks, list(planes), [1] * len(planes), balls, SPACING, impl=impl)


@pytest.mark.parametrize("impl", working("foreground_weights"))
@pytest.mark.benchmark(group="foreground_weights")
def test_foreground_weights(benchmark, inputs: Scene, impl: str) -> None:
    logits = logits_of(inputs, "trained", SETS["1"])
    planes = list(range(len(logits)))
    balls = [tumours(SETS["1"], p, logits.shape[2:]) for p in planes]
    core = place_balls(logits, regions(inputs), planes, [1] * len(planes), balls, SPACING).core
    benchmark(
        foreground_weights, logits, core, planes, [1] * len(planes), [balls[0][0].counts[0]] * len(planes), impl=impl
    )
