# SPDX-License-Identifier: Apache-2.0
"""The search by Triton's kernels: the reference's centres, for every kind of field, ball and box."""

import pytest
import torch

from rsuper_kernels.bits import pack
from rsuper_kernels.ops.ball_search import ball_search
from rsuper_kernels.ops.ball_search import triton_fields as fields
from rsuper_kernels.ops.ball_search import triton_kernel as kernels
from tests.ops.test_backends import KINDS, noise, probabilities


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 1024)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    monkeypatch.setattr(fields, "HALF_WORDS", 256)


def check(probability, available, diameters, spacing=(1.0, 1.0, 1.0), sigma=1.5):
    centre, score = ball_search(probability, available, diameters, spacing, sigma=sigma, impl="triton")
    expected = ball_search(probability, available, diameters, spacing, sigma=sigma, impl="reference")
    assert torch.equal(centre, expected[0])
    torch.testing.assert_close(score, expected[1], rtol=1e-6, atol=0)


# a volume with every width that matters, a ball from one voxel to more than the volume, and a share of free voxels
CASES = [
    ((9, 9, 17), 5.0, (1.0, 1.0, 1.0), 1.5, 0.5),
    ((5, 7, 5), 11.0, (1.0, 1.0, 1.0), 0.5, 1.0),
    ((3, 9, 33), 7.5, (1.0, 2.0, 0.5), None, 1.0),
    ((4, 4, 65), 7.5, (3.0, 0.7, 0.7), 1.5, 0.05),
    ((2, 3, 70), 33.0, (1.0, 1.0, 1.0), 0.5, 0.5),
    ((7, 5, 12), 1.0, (1.0, 2.0, 0.5), 1.5, 0.5),
    ((1, 1, 1), 2.0, (3.0, 0.7, 0.7), None, 1.0),
]


def half_of_the_pairs(kinds, cases):
    return [(kind, case) for i, kind in enumerate(kinds) for j, case in enumerate(cases) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("kind", "case"), half_of_the_pairs(KINDS, CASES), ids=str)
def test_centres(triton, kind, case):
    shape, diameter, spacing, sigma, share = case
    available = noise(1, 1, *shape).sigmoid() <= share
    check(probabilities(kind, 0, shape), available, [diameter], spacing, sigma)


def test_planes_of_one_launch(triton):
    """Each with a ball of its own, one of them without a free voxel, one with a single one."""
    shape = (4, 5, 33)
    probability = torch.cat(
        [probabilities(kind, seed, shape) for seed, kind in enumerate(["noise", "blob", "flat"] * 2)]
    )
    available = noise(1, 6, *shape) > 0
    available[2] = False
    available[3] = False
    available[3, 3, 4, 32] = True
    check(probability, available, [5.0, 3.0, 5.0, 9.0, 1.0, 40.0])


def test_nothing_to_search(triton):
    centre, score = ball_search(torch.rand(0, 3, 3, 3), torch.ones(0, 3, 3, 3), [], impl="triton")
    assert (centre.shape, score.shape) == ((0,), (0,))


def test_the_first_of_equal_centres_wins(triton, monkeypatch):
    """Equal peaks in different tiles and rows; rounding does not decide between them."""
    monkeypatch.setattr(kernels, "TILE", 256)
    probability = torch.zeros(1, 5, 12, 20)
    for z, y, x in [(1, 9, 2), (1, 3, 15), (3, 3, 3), (1, 3, 6)]:
        probability[0, z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 0.3
    check(probability, torch.ones_like(probability), [3.0], sigma=None)
    check(probability, torch.ones_like(probability), [3.0])


@pytest.mark.parametrize("gain", [2e-7, 9e-7, 2e-6])
def test_scores_within_the_tie_width_are_equal(triton, gain):
    """A peak that is better by less than 1e-6 loses to an earlier one, and wins by more."""
    probability = torch.zeros(1, 3, 4, 40, dtype=torch.float64)
    probability[0, 1, 1, 5], probability[0, 1, 1, 30] = 0.5, 0.5 * (1 + gain)
    probability = probability.float()
    check(probability, torch.ones_like(probability), [1.0], sigma=None)


def test_only_tiles_that_may_win_are_scored_again(triton, monkeypatch):
    """The first pass leaves a tile or two of a peaked field; scratch of the second says which were scored."""
    scratch = []

    def kept(*shape, **options):
        scratch.append(allocate(*shape, **options))
        return scratch[-1]

    allocate = torch.empty
    monkeypatch.setattr(kernels, "TILE", 256)
    monkeypatch.setattr(torch, "empty", kept)
    probability = probabilities("blob", 0, (6, 8, 20))
    ball_search(probability, torch.ones_like(probability), [5.0], impl="triton")
    maxima = next(tensor for tensor in scratch if tensor.dtype == torch.float64)
    assert 1 <= (maxima >= 0).sum() <= 2 < maxima.numel()


def test_counters_are_zero_again(triton):
    check(probabilities("noise", 0, (3, 4, 5)), torch.ones(1, 3, 4, 5), [3.0])
    assert not kernels.gpu.counters(torch.device("cpu")).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 2, 64), (2, 2, 70)])
def test_fields_of_logits_and_bits(triton, dtype, shape):
    """Probabilities, zeros and boxes of pairs of planes and masks, two of them without a box."""
    logits = (3 * noise(0, 2, 2, *shape)).to(dtype)
    inside = noise(1, 3, *shape) > 1
    inside[1] = False
    inside[2, :, 1:] = False
    pairs = [(3, 0), (0, 2), (1, 1), (2, 0), (3, 2)]
    (q, filled, _), boxes = fields.fields(
        logits, pack(inside), pairs, "sigmoid", [2, 0, 1, -1, -1], torch.zeros(4, 6, dtype=torch.int32)
    )
    planes, masks = logits.flatten(0, 1)[[p for p, _ in pairs]], inside[[m for _, m in pairs]]
    assert torch.equal(filled.bool(), masks.any(3))
    expected = torch.where(masks, planes.float().sigmoid(), 0)
    torch.testing.assert_close(q[filled.bool()], expected[filled.bool()], rtol=2e-6, atol=0)
    for row, mask in ((2, 0), (0, 2)):
        voxels = inside[mask].nonzero()
        assert boxes[row].tolist() == [*(2**30 - voxels).amax(0).tolist(), *(1 + voxels.amax(0)).tolist()]
    assert not boxes[[1, 3]].any()
