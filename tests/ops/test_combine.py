# SPDX-License-Identifier: Apache-2.0
"""Algebra of masks, against sets of voxels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks, pack
from rsuper_kernels.ops.combine import ALL, AND, MINUS, OR, combine
from tests.helpers import random_mask

IMPLS = [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal("combine", impl, torch.device("cpu")) is None]


def bits(masks: torch.Tensor) -> BitMasks:
    return BitMasks(pack(masks), masks.shape[-1])


@pytest.mark.parametrize("impl", IMPLS)
def test_table(impl):
    """Of voxels 0 to 3: {0, 1}, {1, 2}, {3}."""
    first = bits(torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)[:, None, None])
    second = bits(torch.tensor([[0, 0, 0, 1]], dtype=torch.bool)[:, None, None])
    outputs = [
        [],
        [(OR, ALL)],
        [(OR, 0), (OR, 2)],
        [(OR, 0), (AND, 1)],
        [(OR, ALL), (MINUS, 1)],
        [(AND, 0), (OR, 2)],  # it starts empty
        [(OR, 5), (MINUS, 6)],  # {0, 1, 3} of the third output, without {1} of the fourth
    ]
    made = combine([first, second], outputs, impl=impl)
    rows = [mask.flatten().nonzero().flatten().tolist() for mask in made.unpack()]
    assert rows == [[], [0, 1, 2, 3], [0, 1, 3], [1], [0, 3], [3], [0, 3]]


@pytest.mark.parametrize("impl", IMPLS)
@given(
    width=st.sampled_from([1, 63, 64, 65, 130]),
    steps=st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 4)), max_size=5), max_size=4),
    seed=st.integers(0, 99),
)
def test_equals_boolean_algebra(impl, width, steps, seed):
    dense = [random_mask(2, 2, 3, width, seed=seed), random_mask(3, 2, 3, width, seed=seed + 1)]
    masks = torch.cat(dense)
    got = combine([bits(stack) for stack in dense], steps, impl=impl).unpack()
    for mask, members in zip(got, steps, strict=True):
        expected = torch.zeros_like(mask)
        for operation, row in members:
            other = masks[row] if row >= 0 else torch.ones_like(mask)
            expected = (expected | other, expected & other, expected & ~other)[operation]
        assert torch.equal(mask, expected)
    assert not combine([bits(dense[0])], [[(OR, ALL)]], impl=impl).complement().any()


def test_opcheck():
    stacks = [pack(random_mask(2, 2, 3, 70)), pack(random_mask(1, 2, 3, 70))]
    torch.library.opcheck(torch.ops.rsuper.combine.default, (stacks, 70, [0, 2, 0], [0, 2, -1], [2, 1], "auto"))


def test_refusals():
    masks = bits(random_mask(2, 2, 3, 5))
    with pytest.raises(ValueError, match="stacks: expected at least one, got none"):
        combine([], [])
    with pytest.raises(ValueError, match=r"stacks\[1\]: expected a volume \(2, 3, 5\), got \(2, 3, 6\)"):
        combine([masks, bits(random_mask(1, 2, 3, 6))], [])
    with pytest.raises(ValueError, match=r"outputs\[1\]: expected .* row from -1 to 2, got \(0, 3\)"):
        combine([masks], [[(OR, 1)], [(OR, 3)]])
    with pytest.raises(ValueError, match=r"outputs\[0\]: .* got \(3, 0\)"):
        combine([masks], [[(3, 0)]])
