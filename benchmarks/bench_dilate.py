# SPDX-License-Identifier: Apache-2.0
"""Dilation of one organ mask by 15 mm, beside a copy of a float32 volume of that size."""

import pytest
import torch

from benchmarks.conftest import working
from benchmarks.inputs import Scene
from rsuper_kernels.geometry import Element, ball_element, cascade_element
from rsuper_kernels.ops.dilate import dilate


@pytest.mark.parametrize("element", [ball_element(15.0), cascade_element(31)], ids=["ball", "cascade"])
@pytest.mark.parametrize("impl", working("dilate"))
@pytest.mark.benchmark(group="dilate 15 mm")
def test_dilate(benchmark, inputs: Scene, element: Element, impl: str) -> None:
    benchmark(dilate, inputs.label_map[0] == 1, element, impl=impl)


@pytest.mark.benchmark(group="dilate 15 mm")
def test_copy(benchmark, inputs: Scene) -> None:
    source = inputs.logits[0, 0].contiguous()
    benchmark(torch.empty_like(source).copy_, source)
