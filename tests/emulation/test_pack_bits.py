# SPDX-License-Identifier: Apache-2.0
"""Packing by Triton's kernels, bit by bit as the reference packs."""

import pytest
import torch

from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks, unpack_masks
from rsuper_kernels.ops.pack_bits import triton_kernel as kernels

SHAPES = [(1, 1, 1), (2, 3, 5), (1, 2, 63), (2, 2, 64), (3, 1, 65), (1, 3, 70), (2, 2, 130), (1, 5, 96)]


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_and_back(triton, shape):
    masks = torch.randn(3, *shape) > 0
    packed = pack_masks(masks, impl="triton")
    assert torch.equal(packed.words, pack_masks(masks, impl="reference").words)
    assert torch.equal(unpack_masks(packed, impl="triton"), masks)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
    ],
    ids=str,
)
def test_every_value_but_zero_is_inside(triton, dtype):
    values = torch.randint(-1, 2, (2, 1, 3, 37)).to(dtype)
    if dtype.is_floating_point:
        values[0, 0, 0, :6] = torch.tensor([-0.0, 0.0, float("nan"), float("inf"), -float("inf"), 1e-320])
    assert torch.equal(pack_masks(values, impl="triton").words, pack_masks(values, impl="reference").words)


def test_unions_of_planes(triton):
    masks = torch.randn(4, 2, 3, 70).transpose(1, 2) > 1
    groups = [[0, 2], [], [3], [1, 1, 0, 3]]
    packed = pack_masks(masks, groups, impl="triton")
    assert torch.equal(packed.words, pack_masks(masks, groups, impl="reference").words)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.int32, torch.int64], ids=str)
def test_labels(triton, dtype):
    held = torch.iinfo(dtype)
    labels = torch.randint(0, 4, (3, 2, 3, 67)).to(dtype)
    labels[2, 0, 0, :2] = torch.tensor([held.min, held.max]).to(dtype)
    # 256 and 1 - 2^32 are 0 and 1 to whoever cuts them to the size of a label
    ids = [[1], [0, 2], [held.max, 256, held.max + 1], [], [1 - (1 << 32), held.min], [3, 1]]
    if dtype == torch.int64:
        ids[2] = [held.max, 256]
    sample = [0, 2, 2, 0, 2, 0]
    packed = pack_labels(labels, sample, ids, impl="triton")
    assert torch.equal(packed.words, pack_labels(labels, sample, ids, impl="reference").words)


def test_nothing(triton):
    masks = torch.ones(2, 2, 2, 5)
    assert pack_masks(masks, [], impl="triton").words.shape == (0, 2, 2, 1)
    assert pack_masks(masks[:0], impl="triton").words.shape == (0, 2, 2, 1)
    assert pack_labels(masks.int(), [], [], impl="triton").words.shape == (0, 2, 2, 1)
    assert not pack_masks(masks[:0], [[]], impl="triton").words.any()
    assert unpack_masks(pack_masks(masks[:, :, :0]), impl="triton").shape == (2, 2, 0, 5)


def test_several_programs(triton, monkeypatch):
    monkeypatch.setattr(kernels, "HALF_WORDS", 4)
    masks = torch.randn(1, 2, 2, 130) > 0
    packed = pack_masks(masks, impl="triton")
    assert torch.equal(packed.words, pack_masks(masks, impl="reference").words)
    assert torch.equal(unpack_masks(packed, impl="triton"), masks)
