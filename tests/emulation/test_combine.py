# SPDX-License-Identifier: Apache-2.0
"""The kernels of the algebra of masks against the reference."""

import random

import pytest
import torch

from rsuper_kernels.bits import BitMasks, pack
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, combine
from tests.helpers import random_mask


def stacks(sizes: list[int], width: int) -> list[BitMasks]:
    return [BitMasks(pack(random_mask(n, 2, 3, width, seed=s)), width) for s, n in enumerate(sizes)]


def agree(impl: str, sizes: list[int], width: int, outputs: list[list[tuple[int, int]]]) -> None:
    masks = stacks(sizes, width)
    got, expected = (combine(masks, outputs, impl=one).words for one in (impl, "reference"))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("width", [5, 64, 65, 130])
@pytest.mark.parametrize("sizes", [[3], [2, 1], [1, 2, 3], [1, 1, 1, 1], [1, 2, 1, 2, 1, 2], [1, 1, 2, 1, 1, 2, 1, 1]])
def test_combine(kernels, sizes, width):
    draw = random.Random(width)
    outputs = []
    for made in range(6):
        rows = sum(sizes) + made
        steps = [(draw.choice([OR, AND, MINUS]), draw.randrange(-1, rows)) for _ in range(draw.randrange(5))]
        outputs.append([(OR, draw.randrange(rows)), *steps] if made else [])
    agree(kernels, sizes, width, outputs)


def test_all_voxels_end_with_the_row(kernels):
    agree(kernels, [1], 70, [[(OR, ALL)], [(OR, ALL), (MINUS, 0)], [(OR, 1), (AND, ALL), (MINUS, 2)]])


def test_nothing(kernels):
    agree(kernels, [2], 5, [])
    agree(kernels, [0], 5, [[], [(OR, 0)]])
