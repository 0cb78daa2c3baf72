# SPDX-License-Identifier: Apache-2.0
"""The joint sums by Triton's kernels, held against the reference in float64."""

import pytest
import torch

from rsuper_kernels import tiles
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.ops.loss_sums import AttenuationStats, BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.pack_bits import pack_masks
from tests.ops.test_backends import compact, compare, noise

PLANES = ([0, 1, 1, 0], [2, 0, 0, 1])  # a plane twice, two planes not at all


# what the emitted code adds nothing to, and the emulator of it much time
interpreted = pytest.mark.parametrize("triton", ["interpreter"], indirect=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_WORDS", 64)


def mask(seed, *shape, share=0.4):
    return noise(seed, *shape).sigmoid() < share


def all_terms(shape, seed=0, share=0.4):
    """Each kind on the same four planes; the last group's masks are empty."""
    masks = [mask(10 * seed + i, 4, *shape, share=share) for i in range(5)]
    for some in masks:
        some[3] = False
    region, targets, tumour, organ, unknown = (pack_masks(some) for some in masks)
    known = unknown.complement()
    ct = 40 + 30 * noise(seed + 50, 2, *shape)
    return [
        RegionSums(region, *PLANES),
        BceDice(targets, known, *PLANES),
        BceDice(targets, known, *PLANES, compact(masks[1], seed + 60)),
        AttenuationStats(ct, tumour, organ, *PLANES, (-20.0, 80.0)),
    ]


def check(terms, logits, activation="sigmoid", atol=1e-13):
    def joined(x, impl):
        return torch.cat([part.flatten() for part in loss_sums(x, terms, activation=activation, impl=impl)])

    compare("triton", joined, [logits], 0, atol)


WITH_CT = 1e-4  # sds and means are known to float32 rounding of the CT's size


# rows of a part of a word, of whole words and both, in one tile and in several
@interpreted
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (2, 2, 63), (3, 7, 64), (2, 3, 65), (3, 9, 96)])
def test_shapes(triton, shape):
    check(all_terms(shape), 3 * noise(1, 2, 3, *shape), atol=WITH_CT)


@pytest.mark.parametrize("shape", [(3, 11, 64), (2, 3, 48), (3, 9, 130)])
def test_tiles(triton, shape):
    """Two tiles of dense rows, one of aligned rows, two of others."""
    check(all_terms(shape), 3 * noise(1, 2, 3, *shape), atol=WITH_CT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 64)])
def test_half_precision(triton, dtype, shape):
    check(all_terms(shape), (3 * noise(1, 2, 3, *shape)).to(dtype), atol=WITH_CT)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_probabilities(triton, dtype):
    logits = noise(1, 2, 3, 2, 3, 70).sigmoid().clamp(0.05, 0.95).to(dtype)
    check(all_terms((2, 3, 70)), logits, "identity", WITH_CT)


@pytest.mark.parametrize("size", [1.0, 20.0, 100.0, 1e4])
def test_large_logits(triton, size):
    """Without the CT, tiny sums keep their digits."""
    check(all_terms((2, 3, 70))[:3], size * noise(1, 2, 3, 2, 3, 70).clamp(-1, 1))


@pytest.mark.parametrize("share", [0.0, 0.002, 1.0])
def test_empty_and_full_masks(triton, share):
    check(all_terms((3, 11, 70), share=share), noise(1, 2, 3, 3, 11, 70), atol=WITH_CT)


def test_background_alone(triton):
    """No target in a tile: the short way through it, with the product of many ones."""
    shape = (2, 17, 64)
    everywhere, nowhere = BitMasks.full(1, shape, torch.device("cpu")), BitMasks.zeros(1, shape, torch.device("cpu"))
    for logits in (noise(1, 1, 1, *shape), torch.zeros(1, 1, *shape), torch.full((1, 1, *shape), -20.0)):
        check([BceDice(nowhere, everywhere, [0], [0])], logits)


@interpreted
def test_more_terms_than_a_launch_takes(triton):
    terms = all_terms((2, 3, 70)) + all_terms((2, 3, 70), seed=3)
    logits = noise(1, 2, 3, 2, 3, 70)
    check(terms, logits, atol=WITH_CT)
    check(terms, logits.bfloat16(), atol=WITH_CT)


@interpreted
def test_strides_and_other_types(triton):
    """A turned volume, a CT of int16, weights of float64, and no groups."""
    _, plain, weighted, attenuation = all_terms((2, 5, 37))
    ct = attenuation.ct.to(torch.int16).transpose(2, 3).contiguous().transpose(2, 3)
    none = BitMasks.zeros(0, (2, 5, 37), torch.device("cpu"))
    terms = [
        RegionSums(none, [], []),
        BceDice(plain.targets, plain.known, *PLANES, weighted.weights.double()),
        AttenuationStats(ct, attenuation.tumour, attenuation.organ, *PLANES, (-20.0, 80.0)),
    ]
    check(terms, noise(1, 2, 3, 2, 37, 5).transpose(3, 4), atol=WITH_CT)
    assert loss_sums(noise(1, 2, 3, 2, 5, 37), terms[:1], impl="triton")[0].shape == (0, 2)


@interpreted
def test_logits_that_are_not_numbers(triton):
    """Where a voxel counts they show, elsewhere they do not."""
    shape = (2, 3, 70)
    known = mask(0, 1, *shape)
    x = noise(1, 1, 1, *shape)
    x[0, 0][~known[0]] = float("nan")
    targets = pack_masks(mask(1, 1, *shape))
    leaf = x.requires_grad_()
    (sums,) = loss_sums(leaf, [BceDice(targets, pack_masks(known), [0], [0])], impl="triton")
    assert sums.isfinite().all()
    sums.sum().backward()
    assert leaf.grad.isfinite().all()
    everywhere = BitMasks.full(1, shape, torch.device("cpu"))
    for term in (BceDice(targets, everywhere, [0], [0]), RegionSums(everywhere, [0], [0])):
        assert loss_sums(leaf, [term], impl="triton")[0].isnan().any()


@interpreted
def test_no_voxels(triton):
    leaf = torch.zeros(2, 3, 0, 5, 70).requires_grad_()
    sums = torch.cat([part.flatten() for part in loss_sums(leaf, all_terms((0, 5, 70)), impl="triton")])
    assert not sums.any()
    sums.sum().backward()
    assert leaf.grad.shape == leaf.shape


@interpreted
def test_repeatable(triton):
    terms, results = all_terms((3, 9, 70)), []
    for _ in range(2):
        leaf = noise(1, 2, 3, 3, 9, 70).requires_grad_()
        out = torch.cat([part.flatten() for part in loss_sums(leaf, terms, impl="triton")])
        out.sum().backward()
        results.append((out, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
