# SPDX-License-Identifier: Apache-2.0
"""Best ball of one tumour in each sample, by diameter."""

import pytest

from benchmarks.conftest import working
from benchmarks.inputs import DIAMETERS, Scene
from rsuper_kernels.ops.ball_search import ball_search


@pytest.mark.parametrize("diameter", DIAMETERS)
@pytest.mark.parametrize("impl", working("ball_search"))
@pytest.mark.benchmark(group="ball_search")
def test_ball_search(benchmark, inputs: Scene, diameter: float, impl: str) -> None:
    probability = inputs.logits[:, 1].sigmoid()
    benchmark(ball_search, probability, inputs.label_map == 1, [diameter] * len(probability), impl=impl)
