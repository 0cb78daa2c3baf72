# SPDX-License-Identifier: Apache-2.0
"""Masked cross-entropy and Dice sums of all planes, forward and backward."""

import pytest

from benchmarks.conftest import working
from benchmarks.inputs import Scene
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice


@pytest.mark.parametrize("impl", working("masked_bce_dice"))
@pytest.mark.benchmark(group="masked_bce_dice")
def test_masked_bce_dice(benchmark, forward_backward, inputs: Scene, impl: str) -> None:
    organ = (inputs.label_map == 1)[:, None].expand_as(inputs.logits)
    benchmark(forward_backward(lambda x: masked_bce_dice(x, organ, ~organ, impl=impl)))
