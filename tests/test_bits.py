# SPDX-License-Identifier: Apache-2.0
"""Masks as bits, and the flat tables of op schemas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels.bits import BitMasks, pack, unpack, words_per_row
from rsuper_kernels.tables import every_plane, flatten, split
from tests.helpers import random_mask

CPU = torch.device("cpu")
WIDTHS = [1, 63, 64, 65, 128]

volumes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1, 2, 63, 64, 65, 127, 128, 129, 200]))
counts = st.integers(0, 3)
seeds = st.integers(0, 99)


def bit_masks(inside: torch.Tensor) -> BitMasks:
    return BitMasks(pack(inside), inside.shape[-1])


def assert_holds(masks: BitMasks, inside: torch.Tensor) -> None:
    """The masks hold these voxels, in contiguous words whose unused bits are zero."""
    assert masks.shape == tuple(inside.shape)
    assert masks.words.is_contiguous()
    assert torch.equal(masks.unpack(), inside)
    assert torch.equal(masks.words, pack(inside))  # which sets no bit beyond the width


def test_table():
    """Voxel x is bit x % 64 of word x // 64; bit 63 makes an int64 negative."""
    row = torch.zeros(1, 1, 1, 66, dtype=torch.bool)
    row[..., [0, 2, 62, 64, 65]] = True
    assert pack(row).flatten().tolist() == [1 + 4 + 2**62, 3]
    row[..., 63] = True
    assert pack(row).flatten().tolist() == [1 + 4 + 2**62 - 2**63, 3]
    assert [words_per_row(width) for width in (0, 1, 63, 64, 65, 128, 129)] == [0, 1, 1, 1, 2, 2, 3]


def test_table_of_operations():
    """Two masks of three voxels, 110 and 011 from voxel 0 on: 3 and 6."""
    one, other = (BitMasks(torch.tensor(word).reshape(1, 1, 1, 1), 3) for word in (3, 6))
    results = {"and": one & other, "or": one | other, "minus": one.minus(other), "complement": one.complement()}
    expected = {"and": 2, "or": 7, "minus": 1, "complement": 4}
    assert {name: masks.words.item() for name, masks in results.items()} == expected


@given(count=counts, volume=volumes, seed=seeds, density=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_pack_and_unpack(count, volume, seed, density):
    inside = random_mask(count, *volume, density=density, seed=seed)
    words = pack(inside)
    assert words.dtype == torch.int64
    assert words.shape == (count, *volume[:2], words_per_row(volume[2]))
    assert_holds(BitMasks(words, volume[2]), inside)


def test_pack_takes_any_axes():
    inside = random_mask(5, 130)
    assert torch.equal(unpack(pack(inside[0]), 130), inside[0])
    assert torch.equal(unpack(pack(inside.T), 5), inside.T)


@given(count=counts, volume=volumes, seed=seeds)
def test_operations_are_those_of_bools(count, volume, seed):
    one, other = (random_mask(count, *volume, density=0.5, seed=2 * seed + i) for i in range(2))
    a, b = bit_masks(one), bit_masks(other)
    before = a.words.clone(), b.words.clone()
    assert_holds(a & b, one & other)
    assert_holds(a | b, one | other)
    assert_holds(a.minus(b), one & ~other)
    assert_holds(a.complement(), ~one)
    assert_holds(a.complement().complement(), one)
    assert_holds((a.complement() & b.complement()).complement(), one | other)  # De Morgan
    assert_holds(a.union(), one.any(0, keepdim=True))
    assert torch.equal(a.any(), one.flatten(1).any(1))
    assert torch.equal(a.words, before[0])
    assert torch.equal(b.words, before[1])


@pytest.mark.parametrize("width", WIDTHS)
def test_full_and_zeros(width):
    volume = (2, 3, width)
    full, zeros = BitMasks.full(2, volume, CPU), BitMasks.zeros(2, volume, CPU)
    assert_holds(full, torch.ones(2, *volume, dtype=torch.bool))
    assert_holds(zeros, torch.zeros(2, *volume, dtype=torch.bool))
    assert_holds(full.complement(), zeros.unpack())
    assert_holds(zeros.complement(), full.unpack())
    assert_holds(full.minus(full), zeros.unpack())
    assert_holds(zeros | full, full.unpack())
    assert full.any().tolist() == [True, True]
    assert zeros.any().tolist() == [False, False]


@pytest.mark.parametrize("width", WIDTHS)
def test_any_sees_every_voxel(width):
    for x in {0, width // 2, width - 1}:
        inside = torch.zeros(2, 2, 3, width, dtype=torch.bool)
        inside[1, 1, 2, x] = True
        assert bit_masks(inside).any().tolist() == [False, True]


def test_no_masks():
    for masks in (BitMasks.zeros(0, (2, 3, 65), CPU), BitMasks.full(0, (2, 3, 65), CPU)):
        assert len(masks) == 0
        assert masks.shape == (0, 2, 3, 65)
        assert masks.any().shape == (0,)
        assert masks.complement().shape == (0, 2, 3, 65)
        # nothing united is an empty mask
        assert_holds(masks.union(), torch.zeros(1, 2, 3, 65, dtype=torch.bool))


def test_rows():
    inside = random_mask(4, 2, 3, 65)
    masks = bit_masks(inside)
    assert len(masks) == 4
    for rows in (slice(1, 3), slice(2, 2), [3, 0, 3], []):
        assert_holds(masks[rows], inside[rows])


def test_every_second_row_is_contiguous():
    inside = random_mask(4, 2, 3, 65)
    assert_holds(bit_masks(inside)[::2], inside[::2])


# tables


@given(lists=st.lists(st.lists(st.integers(), max_size=4), max_size=5))
def test_flatten_and_split(lists):
    values, numbers = flatten(lists)
    assert values == [value for part in lists for value in part]
    assert numbers == [len(part) for part in lists]
    assert split(values, numbers) == lists


def test_tables():
    assert flatten([[1, 2], [], (3,)]) == ([1, 2, 3], [2, 0, 1])
    assert split((1, 2, 3), [2, 0, 1]) == [[1, 2], [], [3]]
    assert flatten([]) == ([], [])
    assert split([], []) == []
    assert split([], [0, 0]) == [[], []]


def test_every_plane():
    assert every_plane(torch.zeros(2, 3, 1, 1, 1)) == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    assert every_plane(torch.zeros(2, 0, 1, 1, 1)) == ([], [])
    logits = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    assert torch.equal(logits[every_plane(logits)].flatten(), torch.arange(6.0))
