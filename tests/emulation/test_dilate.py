# SPDX-License-Identifier: Apache-2.0
"""The dilation's kernels against the reference, pass after pass."""

import pytest
import torch

from rsuper_kernels.bits import BitMasks, pack
from rsuper_kernels.geometry import Element, ball_element, cascade_element
from rsuper_kernels.ops.dilate import dilate
from tests.helpers import random_mask

ELEMENTS = {
    "point": ball_element(0.0),
    "ball": ball_element(2.5),
    "anisotropic": ball_element(4.0, (3.0, 0.8, 1.3)),
    "cascade": cascade_element(9),
    "long": ball_element(70.0, (60.0, 50.0, 1.0)),  # two words to either side
    "larger than the volume": ball_element(9.0),
    "empty pass": Element(torch.zeros(0, 3, dtype=torch.int32), (0,)),
    "no pass": Element(torch.zeros(0, 3, dtype=torch.int32), ()),
    # without the offsets between, passes do not merge
    "corners": Element(torch.tensor([[1, 1, 0], [-1, -1, 0], [0, 0, 1]], dtype=torch.int32), (2, 1)),
}


def sparse(*shape: int) -> BitMasks:
    return BitMasks(pack(random_mask(*shape, density=0.02, seed=shape[-1])), shape[-1])


@pytest.mark.parametrize("width", [5, 63, 64, 65, 130])
@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_dilate(kernels, width, element):
    masks = sparse(2, 2, 3, width)
    got, expected = (dilate(masks, element, impl=impl).words for impl in (kernels, "reference"))
    assert torch.equal(got, expected)


def test_long_cascade(kernels):
    """The public code's kernel of 31 voxels: five passes, one launch."""
    masks = sparse(1, 4, 9, 70)
    got, expected = (dilate(masks, cascade_element(31), impl=impl).words for impl in (kernels, "reference"))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["ball", "corners"])
def test_masks_beside(kernels, name):
    """One mask without others, one without several, one that stays, one whose dilation is plain."""
    masks = sparse(5, 3, 4, 66)
    beside = [[1], [0, 2, 4], None, [], [0]]
    got, expected = (dilate(masks, ELEMENTS[name], beside=beside, impl=i).words for i in (kernels, "reference"))
    assert torch.equal(got, expected)
    assert torch.equal(got[2], masks.words[2])


def test_no_masks(kernels):
    assert len(dilate(sparse(0, 2, 3, 5), ELEMENTS["ball"], impl=kernels)) == 0
