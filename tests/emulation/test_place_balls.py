# SPDX-License-Identifier: Apache-2.0
"""Placing by kernels for a GPU: the masks of the reference, for every kind of field and several planes at once."""

import pytest
import torch

from rsuper_kernels.geometry import ball_voxels, growth_radii
from rsuper_kernels.ops.ball_search import triton_fields as fields
from rsuper_kernels.ops.ball_search import triton_kernel as kernels
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.ops.place_balls import Ball, place_balls
from tests.emulation.test_ball_search import half_of_the_pairs
from tests.ops.test_backends import KINDS, noise, probabilities


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 1024)
    monkeypatch.setattr(kernels, "PROGRAMS", 2)
    monkeypatch.setattr(fields, "HALF_WORDS", 256)


def ball(mask, diameter, shape, spacing=(1.0, 1.0, 1.0)):
    count = ball_voxels(diameter, spacing)
    radii = tuple(growth_radii(diameter, 0.2, shape, spacing))
    return Ball(mask, diameter, radii, count, (count // 2, count, 2 * count))


def check(impl, *arguments, **options):
    ours = place_balls(*arguments, **options, impl=impl)
    truth = place_balls(*arguments, **options, impl="reference")
    for name in ("core", "body", "ring", "bodies"):
        assert torch.equal(getattr(ours, name).words, getattr(truth, name).words), name


CASES = [
    ((5, 9, 9), (1.0, 1.0, 1.0), [5.0, 3.0], 0.5, 1.5),
    ((3, 5, 33), (3.0, 0.7, 0.7), [5.0, 5.0, 7.5], 1.0, None),
    ((3, 4, 70), (1.0, 2.0, 0.5), [33.0, 2.0], 0.5, 0.5),
    ((2, 2, 5), (1.0, 1.0, 1.0), [1.0, 2.0, 1.0], 0.05, 1.5),
    ((1, 3, 65), (1.0, 1.0, 1.0), [], 1.0, 1.5),
]


def check_case(impl, kind, shape, spacing, diameters, share, sigma):
    masks = pack_masks(noise(1, 2, *shape).sigmoid() <= share)
    tumours = [ball(i % 2, diameter, shape, spacing) for i, diameter in enumerate(diameters)]
    logits = probabilities(kind, 0, shape)[None]
    check(impl, logits, masks, [0], [0], [tumours], spacing, sigma=sigma, activation="identity")


def check_planes(impl, dtype, activation, keep_bodies):
    """Four planes with zero to three tumours, one of them twice, on masks that overlap, one of which is empty."""
    shape = (4, 6, 33)
    logits = noise(0, 2, 2, *shape).to(dtype)
    logits = logits.sigmoid() if activation == "identity" else logits
    inside = noise(1, 4, *shape) > 0
    inside[3] = False
    tumours = [[(0, 7.5), (1, 5.0), (0, 3.0)], [], [(3, 5.0), (2, 3.0)], [(1, 40.0)], [(2, 5.0), (2, 5.0)]]
    balls = [[ball(*one, shape) for one in plane] for plane in tumours]
    planes = ([0, 0, 1, 1, 1], [0, 1, 0, 1, 0])
    check(impl, logits, pack_masks(inside), *planes, balls, activation=activation, keep_bodies=keep_bodies)


PLANES = [
    (torch.float32, "identity", True),
    (torch.float32, "sigmoid", True),
    (torch.float16, "sigmoid", False),
    (torch.bfloat16, "sigmoid", True),
]


@pytest.mark.parametrize(("kind", "case"), half_of_the_pairs(KINDS, CASES), ids=str)
def test_triton(triton, kind, case):
    check_case("triton", kind, *case)


@pytest.mark.parametrize(("dtype", "activation", "keep_bodies"), PLANES)
def test_planes_by_triton(triton, dtype, activation, keep_bodies):
    check_planes("triton", dtype, activation, keep_bodies)


@pytest.mark.parametrize(("kind", "case"), half_of_the_pairs(KINDS, CASES), ids=str)
def test_cuda(cuda, kind, case):
    check_case("cuda", kind, *case)


@pytest.mark.parametrize(("dtype", "activation", "keep_bodies"), PLANES)
def test_planes_by_cuda(cuda, dtype, activation, keep_bodies):
    check_planes("cuda", dtype, activation, keep_bodies)
