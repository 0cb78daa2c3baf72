# SPDX-License-Identifier: Apache-2.0
"""Lengths, balls and kernels against numbers counted by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import geometry
from rsuper_kernels.ops.dilate import dilate
from tests.helpers import AXIS_ORDERS, SPACINGS, ball_mask

lengths = st.floats(0.3, 6.0)


def offsets(element: geometry.Element) -> int:
    """Voxels of an element: of one voxel dilated by it, in an array it cannot leave."""
    reach = element.reach
    mask = torch.zeros([2 * r + 3 for r in reach], dtype=torch.bool)
    mask[reach[0] + 1, reach[1] + 1, reach[2] + 1] = True
    return int(dilate(mask, element).sum())


@pytest.mark.parametrize(
    ("diameter", "voxels"),
    [
        (1, 1),  # the centre
        (2, 7),  # and its 6 faces
        (3, 19),  # radius 1.5: and 12 edges, at sqrt(2)
        (4, 33),  # radius 2: and 8 corners at sqrt(3), 6 at 2
        (5, 81),
        (7, 179),
        (11, 739),
        (31, 15515),
    ],
)
def test_ball_voxels(diameter, voxels):
    assert geometry.ball_voxels(diameter) == voxels
    assert offsets(geometry.ball_element(diameter / 2)) == voxels


def test_ball_of_anisotropic_voxels():
    """Radius 2 mm on (2, 1, 1) mm: one voxel up and down, and 13 offsets in the plane (|y|, |x| = 0..2 within 2)."""
    element = geometry.ball_element(2.0, (2.0, 1.0, 1.0))
    assert element.reach == (1, 2, 2)
    assert offsets(element) == 1 + 13 + 1


@pytest.mark.parametrize("step", [0.1, 0.7, 1 / 3])
def test_a_voxel_on_the_surface_is_inside(step):
    """3 * 0.1 squared is more than 0.3 * 0.3 in floating point; the third voxel still counts."""
    for voxels in range(1, 10):
        radius = sum([step] * voxels)
        assert geometry.ball_element(radius, (step,) * 3).reach == (voxels,) * 3
        assert geometry.ball_kernel(2 * radius, (step,) * 3).shape == (2 * voxels + 1,) * 3


@pytest.mark.parametrize(
    ("kernel_size", "passes", "reach", "voxels"),
    [
        (1, 1, 0, 1),
        (3, 1, 1, 19),
        (7, 1, 3, 179),
        (6, 1, 3, 179),  # even: raised to 7
        (9, 2, 4, None),  # radius 4 = 3 + 1
        (31, 5, 15, 16251),
        (30, 5, 15, 16251),
    ],
)
def test_cascade(kernel_size, passes, reach, voxels):
    element = geometry.cascade_element(kernel_size)
    assert len(element.passes) == passes
    assert element.reach == (reach,) * 3
    if voxels is not None:
        assert offsets(element) == voxels


def test_cascade_reaches_less_far_on_the_diagonal_than_the_ball():
    """Five 7-balls reach (10, 10, 10): 17.32 voxels; the 31-ball, 15.5 wide, does not."""
    mask = torch.zeros(35, 35, 35, dtype=torch.bool)
    mask[17, 17, 17] = True
    assert dilate(mask, geometry.cascade_element(31))[27, 27, 27]
    assert not dilate(mask, geometry.ball_element(15.5))[27, 27, 27]


@given(radius=st.floats(0.0, 5.0), spacing=st.tuples(lengths, lengths, lengths))
def test_ball_is_what_lies_within_the_radius(radius, spacing):
    element = geometry.ball_element(radius, spacing)
    size = [2 * r + 5 for r in element.reach]
    mask = torch.zeros(size, dtype=torch.bool)
    centre = [n // 2 for n in size]
    mask[tuple(centre)] = True
    assert torch.equal(dilate(mask, element), ball_mask(size, centre, radius, spacing))


@pytest.mark.parametrize("order", AXIS_ORDERS, ids=str)
def test_kernel_follows_its_axes(order):
    spacing = (3.0, 0.8, 1.3)
    kernel = geometry.ball_kernel(9.0, spacing)
    other = geometry.ball_kernel(9.0, tuple(spacing[axis] for axis in order))
    # the squares are summed in another order: the last digit may differ
    torch.testing.assert_close(other, kernel.permute(order), rtol=1e-14, atol=0)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("sigma", [1.5, 0.5, None], ids=["wide", "narrow", "flat"])
def test_kernel(spacing, sigma):
    kernel = geometry.ball_kernel(11.0, spacing, sigma)
    assert kernel.dtype == torch.float64
    assert all(edge % 2 == 1 for edge in kernel.shape)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    centre = [edge // 2 for edge in kernel.shape]
    assert torch.equal(kernel > 0, ball_mask(kernel.shape, centre, 5.5, spacing))
    assert torch.equal(kernel, kernel.flip(0, 1, 2))


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("sigma", [1.5, None], ids=["wide", "flat"])
def test_kernel_cut_to_the_patch_is_the_middle_of_the_whole(spacing, sigma):
    whole = geometry.ball_kernel(21.0, spacing, sigma)
    cut = geometry.ball_kernel(21.0, spacing, sigma, (2, 50, 0))
    middle = [edge // 2 for edge in whole.shape]
    expected = whole[middle[0] - 2 : middle[0] + 3, :, middle[2] : middle[2] + 1]
    assert torch.equal(cut, expected)


def test_kernel_of_a_huge_ball_in_a_small_patch_is_small():
    """500 mm around 5 x 5 x 5 voxels: nearly flat, and 4/3 pi 250^3 = 6.545e7 voxels share the weight."""
    kernel = geometry.ball_kernel(500.0, sigma=None, largest_reach=(4, 4, 4))
    assert kernel.shape == (9, 9, 9)
    assert kernel[0, 0, 0].item() == pytest.approx(1 / 6.545e7, rel=1e-3)


def test_kernel_border_weighs_four_fifths():
    """exp(-r^2 / (2 (1.5 r)^2)) = exp(-2/9) = 0.8007 at the border of a ball of 10 mm."""
    kernel = geometry.ball_kernel(10.0)
    assert float(kernel[0, 5, 5] / kernel[5, 5, 5]) == pytest.approx(math.exp(-2 / 9), rel=1e-12)
    assert math.exp(-2 / 9) == pytest.approx(0.80, abs=0.005)


@pytest.mark.parametrize("diameter", [0.1, 0.999])
def test_kernel_smaller_than_a_voxel_is_that_voxel(diameter):
    assert torch.equal(geometry.ball_kernel(diameter), torch.ones(1, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("diameter", "odd"),
    [(10.4, 11), (10.5, 11), (11.4, 11), (11.5, 13), (12.5, 13), (13.4, 13), (1, 1), (2, 3), (2.5, 3), (3.5, 5)],
)
def test_odd_diameter_rounds_half_to_even_then_up(diameter, odd):
    assert geometry.odd_diameter(diameter) == odd


@pytest.mark.parametrize(("diameter", "odd"), [(6.0, 7), (13.2, 15), (25.2, 27), (3.0, 3), (0.5, 1)])
def test_ceil_odd(diameter, odd):
    assert geometry.ceil_odd(diameter) == odd


@pytest.mark.parametrize(("diameter", "first"), [(5, 3.5), (11, 7.5), (21, 13.5)])
def test_odd_growth_starts_at_the_margin_rounded_up_to_odd(diameter, first):
    """1.2 * 5 = 6 -> 7, 1.2 * 11 = 13.2 -> 15, 1.2 * 21 = 25.2 -> 27 voxels wide."""
    radii = geometry.odd_growth_radii(diameter, 0.2, (40, 40, 40))
    assert radii[0] == first
    assert radii == sorted(radii)


def test_odd_growth_ends_below_the_patch_edge():
    """11 -> 13 -> 15 -> 17 -> 19 -> (21 is not below 20): 1.2 times that, up to odd."""
    assert geometry.odd_growth_radii(11, 0.2, (20, 10, 10)) == [7.5, 8.5, 9.5, 10.5, 11.5]
    assert geometry.odd_growth_radii(11, 0.2, (19, 10, 10)) == [7.5, 8.5, 9.5, 10.5]  # nor is 19 below 19
    assert geometry.odd_growth_radii(25, 0.2, (20, 20, 20)) == [15.5]


@given(st.floats(0.5, 80.0), st.tuples(*[st.integers(1, 40)] * 3), st.tuples(lengths, lengths, lengths))
def test_growth_spans_the_patch(diameter, shape, spacing):
    radii = geometry.growth_radii(diameter, 0.2, shape, spacing)
    assert radii[0] == pytest.approx(0.6 * diameter)
    assert np.allclose(np.diff(radii), 0.1 * np.array(radii[:-1]))
    corner_to_corner = math.hypot(*((n - 1) * s for n, s in zip(shape, spacing, strict=True)))
    assert radii[-1] >= corner_to_corner


@pytest.mark.parametrize(
    ("diameters", "completed", "volume"),
    [
        ((10.0,), (10, 10, 10), 523.599),
        ((11.0, 10.0), (11, 10, 10.5), 604.757),  # the 604.8 mm3 of an 11 x 10 mm tumour
        ((20.0, 14.0, 9.0), (20, 14, 9), 1319.469),
        ((3.0, 20.0, 14.0, 9.0), (20, 14, 9), 1319.469),  # the three largest
        ((20.0, 4.0), (20, 4, 12), 502.655),
        ((5.0,), (5, 5, 5), 65.450),  # the smallest plausible tumour: 66 mm3
        ((120.0,), (120, 120, 120), 904778.684),  # the largest: 905,000 mm3
    ],
)
def test_ellipsoids(diameters, completed, volume):
    assert geometry.complete_diameters(diameters) == completed
    assert geometry.ellipsoid_volume(diameters) == pytest.approx(volume, abs=1e-3)


def test_voxel_volume():
    assert geometry.voxel_volume((3.0, 0.8, 0.5)) == pytest.approx(1.2)


@pytest.mark.parametrize("spacing", [[1, 2, 3], np.array([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])], ids=type)
def test_spacing_may_be_any_sequence(spacing):
    assert geometry.as_spacing(spacing) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "spacing",
    [(1, 1), (1, 1, 1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1), (1, 1, math.inf), 1.0, None, "abc", (1, 1, None)],
    ids=repr,
)
def test_spacing_refused(spacing):
    with pytest.raises(ValueError, match=r"spacing: expected three positive numbers \(sD, sH, sW\) in mm.*got"):
        geometry.as_spacing(spacing)


@pytest.mark.parametrize("radius", [-1.0, math.nan, math.inf])
def test_radius_refused(radius):
    with pytest.raises(ValueError, match=f"radius: expected a finite length of at least 0 mm, got {radius}"):
        geometry.ball_element(radius)


def as_runs(element: geometry.Element) -> tuple[tuple[int, int, int], ...]:
    return tuple((dz, dy, half_width) for dz, dy, half_width in element.runs.tolist())


def test_merged_cascade():
    """Two passes, each the voxel and its faces: |x| + |y| + |z| <= 2, 25 offsets in 13 runs."""
    cross = ((0, 0, 1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0))
    (merged,) = geometry.merged_runs(cross * 2, (5, 5))
    assert len(merged) == 13
    assert sum(2 * half_width + 1 for _, _, half_width in merged) == 25
    assert all(abs(dz) + abs(dy) + half_width == 2 for dz, dy, half_width in merged)


@given(
    radii=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=3),
    spacing=st.sampled_from(SPACINGS),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    seed=st.integers(0, 1000),
)
def test_merged_passes_dilate_alike(radii, spacing, shape, seed):
    """Pass after pass or all at once, also at borders and where the element is larger than the volume."""
    balls = [geometry.ball_element(radius, spacing) for radius in radii]
    element = geometry.Element(torch.cat([ball.runs for ball in balls]), tuple(len(ball.runs) for ball in balls))
    (merged,) = geometry.merged_runs(as_runs(element), element.passes)
    at_once = geometry.Element(torch.tensor(merged, dtype=torch.int32), (len(merged),))
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.1
    assert torch.equal(dilate(mask, element, impl="reference"), dilate(mask, at_once, impl="reference"))


def test_passes_with_holes_stay_apart():
    """Two steps along the diagonal cannot pass the corner of an array; one step of their sum could."""
    diagonal = ((1, 1, 0), (-1, -1, 0), (0, 0, 0))
    assert geometry.merged_runs(diagonal * 2, (3, 3)) == (diagonal, diagonal)
    lopsided = ((0, 0, 1), (0, 1, 0))
    assert geometry.merged_runs(lopsided, (2,)) == (lopsided,)


def test_merged_passes_without_runs():
    assert geometry.merged_runs((), ()) == (((0, 0, 0),),)
    assert geometry.merged_runs(((0, 0, 2),), (1, 0)) == ((),)
