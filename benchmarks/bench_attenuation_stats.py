# SPDX-License-Identifier: Apache-2.0
"""Soft statistics of tumour and organ in each sample, forward and backward."""

import pytest

from benchmarks.conftest import working
from benchmarks.inputs import Scene
from rsuper_kernels.ops.attenuation_stats import attenuation_stats


@pytest.mark.parametrize("impl", working("attenuation_stats"))
@pytest.mark.benchmark(group="attenuation_stats")
def test_attenuation_stats(benchmark, forward_backward, inputs: Scene, impl: str) -> None:
    organ = inputs.label_map == 1
    benchmark(
        forward_backward(lambda x: attenuation_stats(inputs.ct, x, organ, organ, [0, 1], [1, 1], impl=impl)[..., 1])
    )
