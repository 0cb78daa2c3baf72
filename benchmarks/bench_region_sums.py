# SPDX-License-Identifier: Apache-2.0
"""Masked sums of sigmoid over a label map, forward and backward."""

import pytest

from benchmarks.conftest import working
from benchmarks.inputs import Scene
from rsuper_kernels.ops.region_sums import region_sums


@pytest.mark.parametrize("impl", working("region_sums"))
@pytest.mark.benchmark(group="region_sums")
def test_region_sums(benchmark, forward_backward, inputs: Scene, impl: str) -> None:
    benchmark(forward_backward(lambda x: region_sums(x, inputs.label_map, [0, 1], [1, 1], [[1], [1]], impl=impl)))
