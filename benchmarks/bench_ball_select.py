# SPDX-License-Identifier: Apache-2.0
"""Core, body and ring of one tumour in each sample, and the rank weights of the body."""

import pytest
import torch

from benchmarks.conftest import working
from benchmarks.inputs import SPACING, Scene
from rsuper_kernels.geometry import growth_radii
from rsuper_kernels.ops.ball_select import ball_select, rank_weights

VOXELS = 8181


@pytest.fixture
def selection(inputs: Scene):
    probability = inputs.logits[:, 1].sigmoid()
    planes, *shape = probability.shape
    centre = torch.full((planes,), probability[0].numel() // 2 + shape[1] * shape[2] // 2)
    radii = [growth_radii(25.0, 0.2, shape, SPACING)] * planes
    counts = [[int(share * VOXELS) for share in (0.8, 1.0, 1.2)]] * planes
    return probability, inputs.label_map == 1, centre, radii, [VOXELS] * planes, counts


@pytest.mark.parametrize("impl", working("ball_select"))
@pytest.mark.benchmark(group="ball_select")
def test_ball_select(benchmark, selection, impl: str) -> None:
    benchmark(ball_select, *selection, impl=impl)


@pytest.mark.parametrize("impl", working("rank_weights"))
@pytest.mark.benchmark(group="rank_weights")
def test_rank_weights(benchmark, selection, impl: str) -> None:
    body = ball_select(*selection)[:, 2]
    benchmark(rank_weights, selection[0], body, [VOXELS] * len(body), impl=impl)
