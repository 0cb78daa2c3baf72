# SPDX-License-Identifier: Apache-2.0
"""Dilation, on every backend that works here."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import dispatch
from rsuper_kernels.bits import pack
from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.geometry import ball_element, cascade_element
from rsuper_kernels.ops.dilate import dilate
from tests.helpers import AXIS_ORDERS, LAYOUTS, SHAPES, SPACINGS, ball_mask, box_mask, permuted, random_mask

WORKING = [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal("dilate", impl, torch.device("cpu")) is None]
ELEMENTS = {
    "point": ball_element(0.0),
    "ball": ball_element(2.5),
    "anisotropic": ball_element(4.0, (3.0, 0.8, 1.3)),
    "flat": ball_element(2.0, (5.0, 1.0, 1.0)),
    "cascade": cascade_element(9),
}

shapes = st.tuples(*[st.integers(1, 8)] * 3)
radii = st.floats(0.0, 4.0)
spacings = st.sampled_from(SPACINGS)
densities = st.sampled_from([0.01, 0.1, 0.5])


@pytest.fixture(params=WORKING)
def impl(request):
    return request.param


def around_each_voxel(mask: torch.Tensor, radius: float, spacing) -> torch.Tensor:
    """The union of the balls around the mask's voxels."""
    out = torch.zeros_like(mask)
    for centre in mask.nonzero().tolist():
        out |= ball_mask(mask.shape, centre, radius, spacing)
    return out


def test_table(impl):
    """A voxel at (1, 1, 1) of 3 x 4 x 5, radius 1 on unit voxels: itself and its 6 faces."""
    mask = box_mask((3, 4, 5), (1, 2), (1, 2), (1, 2))
    out = dilate(mask, ball_element(1.0), impl=impl)
    faces = [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 2, 1], [2, 1, 1]]
    assert out.nonzero().tolist() == faces


def test_table_anisotropic(impl):
    """Radius 2 mm on (3, 1, 2) mm from a corner: two along y, one along x; (1, 1) at sqrt(5) is too far."""
    mask = box_mask((3, 4, 5), (0, 1), (0, 1), (0, 1))
    out = dilate(mask, ball_element(2.0, (3.0, 1.0, 2.0)), impl=impl)
    assert out.nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 2, 0]]


@given(shape=shapes, radius=radii, spacing=spacings, density=densities, seed=st.integers(0, 99))
def test_equals_the_union_of_balls(shape, radius, spacing, density, seed):
    mask = random_mask(*shape, density=density, seed=seed)
    expected = around_each_voxel(mask, radius, spacing)
    for backend in WORKING:
        assert torch.equal(dilate(mask, ball_element(radius, spacing), impl=backend), expected)


@given(shape=shapes, radius=radii, spacing=spacings, seed=st.integers(0, 99), kernel=st.sampled_from([None, 3, 9, 13]))
def test_is_extensive_and_monotone(shape, radius, spacing, seed, kernel):
    element = ball_element(radius, spacing) if kernel is None else cascade_element(kernel)
    small, more = random_mask(*shape, density=0.1, seed=seed), random_mask(*shape, density=0.1, seed=seed + 1)
    dilated = dilate(small, element)
    assert not (small & ~dilated).any()
    # it distributes over unions, and so grows with its mask
    assert torch.equal(dilate(small | more, element), dilated | dilate(more, element))
    wider = ball_element(radius + 0.7, spacing) if kernel is None else cascade_element(kernel + 2)
    assert not (dilated & ~dilate(small, wider)).any()


@given(shape=shapes, radius=radii, spacing=spacings, seed=st.integers(0, 99), flips=st.sets(st.integers(0, 2)))
def test_commutes_with_flips(shape, radius, spacing, seed, flips):
    mask, element = random_mask(*shape, density=0.1, seed=seed), ball_element(radius, spacing)
    assert torch.equal(dilate(mask.flip(list(flips)), element), dilate(mask, element).flip(list(flips)))


@pytest.mark.parametrize("order", AXIS_ORDERS, ids=str)
def test_commutes_with_permuted_axes_and_spacing(order, impl):
    spacing = (3.0, 0.8, 1.3)
    mask = random_mask(5, 13, 9, density=0.02)
    other = ball_element(4.0, tuple(spacing[axis] for axis in order))
    expected = permuted(dilate(mask, ball_element(4.0, spacing), impl=impl), order)
    assert torch.equal(dilate(permuted(mask, order), other, impl=impl), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_backends_agree_on_odd_shapes(shape, element):
    mask = random_mask(2, *shape, density=0.05)
    expected = dilate(mask, element, impl="reference")
    for backend in WORKING:
        assert torch.equal(dilate(mask, element, impl=backend), expected)


@pytest.mark.parametrize("element", ELEMENTS.values(), ids=ELEMENTS.keys())
def test_empty_and_full(element, impl):
    assert not dilate(torch.zeros(17, 23, 9), element, impl=impl).any()
    assert dilate(torch.ones(17, 23, 9), element, impl=impl).all()
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        assert dilate(torch.zeros(shape), element, impl=impl).shape == shape


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(layout, impl):
    mask = random_mask(2, 3, 5, 7, 9, density=0.05)
    element = ELEMENTS["anisotropic"]
    expected = dilate(mask, element, impl=impl)
    assert torch.equal(dilate(layout(mask), element, impl=impl), expected)
    assert torch.equal(dilate(layout(mask.float()), element, impl=impl), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_value_but_zero_is_foreground(dtype):
    mask = random_mask(4, 5, 6, density=0.1)
    expected = dilate(mask, ball_element(1.5))
    assert torch.equal(dilate(mask.to(dtype) * 3, ball_element(1.5)), expected)
    if dtype.is_floating_point:
        assert torch.equal(dilate(mask.to(dtype) * -0.25, ball_element(1.5)), expected)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_leading_axes(lead):
    mask = random_mask(*lead, 4, 5, 6, density=0.05)
    out = dilate(mask, ball_element(1.5))
    assert out.shape == mask.shape
    assert out.dtype == torch.bool
    planes = [dilate(plane, ball_element(1.5)) for plane in mask.reshape(-1, 4, 5, 6)]
    assert torch.equal(out.reshape(-1, 4, 5, 6), torch.stack(planes))


def test_returns_a_new_tensor_and_leaves_the_mask_alone(impl):
    mask = random_mask(1, 4, 5, 6)
    before = mask.clone()
    out = dilate(mask, ball_element(0.0), impl=impl)
    assert torch.equal(out, before)
    out.logical_not_()
    assert torch.equal(mask, before)


def test_has_no_gradient():
    assert not dilate(torch.rand(4, 5, 6, requires_grad=True), ball_element(1.5)).requires_grad


def test_opcheck(impl):
    element = cascade_element(9)
    arguments = (pack(random_mask(2, 4, 5, 6)), 6, element.runs, list(element.passes), [1], [1, -1], impl)
    torch.library.opcheck(torch.ops.rsuper.dilate.default, arguments)


def test_masks_beside_each_other(impl):
    """In a row of 9: voxels 1 and 5 grow by 2, 1 not into 3 to 4; 8 stays as it is; 3 to 4 keeps itself beside 1."""
    rows = [[1], [3, 4], [5], [8]]
    masks = torch.zeros(4, 1, 1, 9, dtype=torch.bool)
    for mask, row in zip(masks, rows, strict=True):
        mask[0, 0, row] = True
    out = dilate(masks, ball_element(2.0), beside=[[1], [0, 2], [], None], impl=impl)
    assert [mask.nonzero()[:, 2].tolist() for mask in out] == [[0, 1, 2], [2, 3, 4, 6], [3, 4, 5, 6, 7], [8]]
    # what they share stays with both
    overlapping = dilate(masks[[0, 0]], ball_element(1.0), beside=[[1], [0]], impl=impl)
    assert [mask.nonzero()[:, 2].tolist() for mask in overlapping] == [[0, 1, 2]] * 2


@pytest.mark.parametrize("beside", [[[0]], [[1], [2]], [[-1], []]], ids=str)
def test_refuses_masks_that_do_not_exist(beside):
    with pytest.raises(ValueError, match=r"beside: expected masks from 0 to 1 for each of 2"):
        dilate(torch.zeros(2, 1, 1, 3), ball_element(1.0), beside=beside)


def test_compile():
    torch._dynamo.reset()
    mask, element = random_mask(2, 4, 5, 6), ball_element(1.5)
    compiled = torch.compile(lambda m: ~dilate(m, element), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(mask), ~dilate(mask, element))


def test_refusals():
    with pytest.raises(ValueError, match=r"mask: expected \(D, H, W\), got shape \(4, 5\)"):
        dilate(torch.zeros(4, 5), ball_element(1.0))
    with pytest.raises(ValueError, match=r"impl: expected one of auto, .* got 'gpu'"):
        dilate(torch.zeros(4, 5, 6), ball_element(1.0), impl="gpu")
    with pytest.raises(BackendError, match='dilate: impl="triton" cannot run: '):
        dilate(torch.zeros(4, 5, 6), ball_element(1.0), impl="triton")
