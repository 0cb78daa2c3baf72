# SPDX-License-Identifier: Apache-2.0
"""Masks and label maps as bits, and back."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import dispatch, native
from rsuper_kernels.bits import BitMasks, pack
from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.pack_bits import pack_labels, pack_masks, unpack_masks
from tests.helpers import LAYOUTS, SHAPES, random_mask

CPU = torch.device("cpu")
WORKING = [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal("pack_masks", impl, CPU) is None]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

shapes = st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 5, 70]), st.sampled_from([0, 1, 7, 63, 64, 65, 96, 130]))
seeds = st.integers(0, 99)


@pytest.fixture(params=WORKING)
def impl(request):
    return request.param


def values(dtype: torch.dtype) -> tuple[list[float], list[bool]]:
    """The least and greatest, and the odd values of a dtype, and which of them count as inside."""
    if dtype == torch.bool:
        return [False, True], [False, True]
    if dtype.is_floating_point:
        info = torch.finfo(dtype)
        least = info.smallest_normal * info.eps
        given = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, info.max, info.tiny, least, -least, 0.5]
    else:
        info = torch.iinfo(dtype)
        given = [0, 1, 2, info.min, info.max, info.max - 1]
    return given, [value != 0 for value in given]


def row(numbers: list[float], dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGERS, *FLOATS], ids=str)
@pytest.mark.parametrize("repeats", [1, 13])  # a part of a word, and whole words with a rest
def test_every_value_but_zero_is_inside(dtype, repeats, impl):
    given, inside = values(dtype)
    masks = pack_masks(row(given * repeats, dtype), impl=impl)
    assert unpack_masks(masks, impl=impl).flatten().tolist() == inside * repeats
    assert torch.equal(masks.words, pack(row(inside * repeats, torch.bool)))


def test_unions(impl):
    """Planes 100, 010, 001: each by itself, two, the same twice, none, all."""
    masks = torch.eye(3).reshape(3, 1, 1, 3)
    assert pack_masks(masks, impl=impl).words.flatten().tolist() == [1, 2, 4]
    packed = pack_masks(masks, [[0, 2], [1, 1], [], [2, 1, 0]], impl=impl)
    assert packed.words.flatten().tolist() == [5, 2, 0, 7]
    assert pack_masks(masks, [], impl=impl).shape == (0, 1, 1, 3)
    # no planes at all still make empty masks
    assert pack_masks(masks[:0], [[], []], impl=impl).words.flatten().tolist() == [0, 0]


@given(
    shape=shapes,
    seed=seeds,
    groups=st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=4),
    dtype=st.sampled_from([torch.bool, *INTEGERS, *FLOATS]),
    density=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_backends_equal_the_reference(shape, seed, groups, dtype, density):
    inside = random_mask(3, *shape, density=density, seed=seed)
    masks = inside.to(dtype) * 3 if dtype not in (torch.uint16, torch.uint32, torch.uint64) else inside.to(dtype)
    by_group = pack_masks(masks, groups, impl="reference")
    by_plane = pack_masks(masks, impl="reference")
    assert torch.equal(unpack_masks(by_plane, impl="reference"), inside)
    for backend in WORKING:
        assert torch.equal(pack_masks(masks, groups, impl=backend).words, by_group.words)
        assert torch.equal(pack_masks(masks, impl=backend).words, by_plane.words)
        assert torch.equal(unpack_masks(by_group, impl=backend), unpack_masks(by_group, impl="reference"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_strides(shape, layout, impl):
    mask = random_mask(3, *shape)
    expected = pack(mask)
    for dtype in (torch.bool, torch.float16, torch.float64):
        assert torch.equal(pack_masks(layout(mask.to(dtype)), impl=impl).words, expected)
    assert torch.equal(pack_labels(layout(mask.to(torch.int16)), [0, 1, 2], [[1]] * 3, impl=impl).words, expected)


def test_expanded(impl):
    mask = random_mask(1, 3, 1, 65)
    wide = mask.expand(4, 3, 5, 65)
    assert torch.equal(pack_masks(wide, impl=impl).words, pack(wide))
    assert torch.equal(pack_labels(wide.long(), [3], [[1]], impl=impl).words, pack(wide[3:]))
    words = pack(mask).expand(4, 3, 5, 2)
    assert torch.equal(unpack_masks(BitMasks(words, 65), impl=impl), wide)


def test_inputs_stay_as_they_are(impl):
    masks = torch.randn(2, 3, 4, 65, requires_grad=True)
    before = masks.detach().clone()
    packed = pack_masks(masks, impl=impl)
    words = packed.words.clone()
    unpack_masks(packed, impl=impl).logical_not_()
    assert torch.equal(masks, before)
    assert torch.equal(packed.words, words)
    assert not packed.words.requires_grad


def test_threads_do_not_change_anything():
    noise = torch.randn(3, 9, 70, 65)
    labels = noise.mul(2).int()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        masks = pack_masks(noise > 0, [[0, 1], [2]])
        binary = [native.holds_binary(tensor) for tensor in (labels, (noise > 0).half())]
        results.append([masks.words, pack_labels(labels, [0, 2], [[1, 2], [0]]).words, unpack_masks(masks), binary])
    torch.set_num_threads(1)
    assert results[0][3] == results[1][3]
    for one, two in zip(results[0][:3], results[1][:3], strict=True):
        assert torch.equal(one, two)


# label maps


def test_table_of_labels(impl):
    """Two samples of four voxels, 0 1 2 1 and 2 2 0 9."""
    labels = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 9]]).reshape(2, 1, 1, 4)
    groups = ([0, 1, 1, 0, 1], [[1], [2], [0, 9], [], [7]])
    assert pack_labels(labels, *groups, impl=impl).words.flatten().tolist() == [10, 3, 12, 0, 0]
    assert pack_labels(labels, [], [], impl=impl).shape == (0, 1, 1, 4)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_ids_that_a_dtype_cannot_hold_match_nothing(dtype, impl):
    info = torch.iinfo(dtype)
    numbers = [0, 1, 44, info.min, min(info.max, 2**63 - 1), 1]
    labels = row(numbers, dtype)
    wrapped = [i + 2**info.bits for i in (0, 1, 44)] + [1 - 2**info.bits]
    for ids in ([i for i in wrapped if -(2**63) <= i < 2**63], [-1], [-(2**63)] if info.min > -(2**63) else []):
        assert not unpack_masks(pack_labels(labels, [0], [ids], impl=impl)).any(), ids
    for label in {1, 44, info.min, min(info.max, 2**63 - 1)}:
        ids = [label] if info.bits == 64 else [label, *wrapped[:2]]
        got = unpack_masks(pack_labels(labels, [0], [ids], impl=impl))
        assert got.flatten().tolist() == [number == label for number in numbers], label


@given(
    shape=shapes,
    seed=seeds,
    sample=st.lists(st.integers(0, 1), max_size=4),
    dtype=st.sampled_from(INTEGERS),
    ids=st.tuples(*[st.lists(st.sampled_from([-129, -3, -1, 0, 1, 2, 3, 255, 256, 257, 2**40]), max_size=4)] * 4),
)
def test_backends_equal_the_reference_on_labels(shape, seed, sample, dtype, ids):
    noise = torch.randint(-4, 5, (2, *shape), generator=torch.Generator().manual_seed(seed))
    labels = (noise if torch.iinfo(dtype).min < 0 else noise.abs()).to(dtype)
    ids = ids[: len(sample)]
    truth = [[v in members for v in labels[b].flatten().tolist()] for b, members in zip(sample, ids, strict=True)]
    for backend in WORKING:
        masks = pack_labels(labels, sample, ids, impl=backend)
        assert masks.shape == (len(sample), *shape)
        assert unpack_masks(masks).flatten(1).tolist() == truth
        assert torch.equal(masks.words, pack(masks.unpack()))


# binary or not


@pytest.mark.skipif(not native.available()[0], reason="needs the compiled module")
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *INTEGERS[2:5], *FLOATS[:3]], ids=str)
def test_holds_binary(dtype):
    """Against the values one by one, at the ends of an array that is cut into pieces."""
    given, _ = values(dtype)
    for value in given:
        for length, places in ((1, [0]), (100, [0, 63, 99]), (2**15 + 3, [0, 2**14 - 1, 2**14, 2**15 + 2])):
            for place in places:
                array = torch.zeros(length, dtype=dtype)
                array[length // 2] = 1
                array[place] = value
                assert native.holds_binary(array) == (value in (0, 1)), (value, length, place)


def test_holds_binary_knows_nothing_of_what_it_cannot_read():
    ones = torch.ones(4, 4)
    assert native.holds_binary(ones) == native.available()[0]
    assert native.holds_binary(torch.zeros(0)) == native.available()[0]
    assert not native.holds_binary(ones[:, ::2])
    assert not native.holds_binary(ones.double())


# what torch makes of the ops, and what they refuse


def test_opcheck(impl):
    masks, labels = random_mask(3, 2, 3, 65), torch.randint(0, 3, (2, 2, 3, 65))
    ops = torch.ops.rsuper
    torch.library.opcheck(ops.pack_masks.default, (masks, [0, 2, 1], [2, 0, 1], impl))
    torch.library.opcheck(ops.pack_labels.default, (labels, [1, 0, 1], [1, 2, 0], [2, 0, 1], impl))
    torch.library.opcheck(ops.unpack_masks.default, (pack(masks), 65, impl))


def test_compile():
    torch._dynamo.reset()
    masks, labels = random_mask(3, 2, 3, 65), torch.randint(0, 3, (2, 2, 3, 65))

    def joined(m: torch.Tensor, l: torch.Tensor) -> torch.Tensor:
        # set algebra by operators is more than torch 2.6 can trace
        return unpack_masks(pack_masks(m, [[0, 1], [2]]).minus(pack_labels(l, [0, 1], [[1], [0, 2]]).complement()))

    compiled = torch.compile(joined, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(masks, labels), joined(masks, labels))


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (pack_masks, [torch.ones(3, 4, 5)], ValueError, r"masks: expected \(N, D, H, W\), got shape \(3, 4, 5\)"),
        (pack_masks, [torch.ones(2, 3, 4, 5), [[0], [2]]], ValueError, r"groups: expected planes from 0 to 1, got"),
        (pack_masks, [torch.ones(2, 3, 4, 5), [[-1]]], ValueError, r"groups: expected planes from 0 to 1, got \[-1\]"),
        (pack_labels, [torch.ones(2, 3, 4, 5), [], []], TypeError, "labels: expected an integer .*got torch.float32"),
        (pack_labels, [random_mask(2, 3, 4, 5), [], []], TypeError, "labels: expected an integer .*got torch.bool"),
        (pack_labels, [torch.ones(3, 4, 5).int(), [], []], ValueError, r"labels: expected \(B, D, H, W\), got"),
        (
            pack_labels,
            [torch.ones(2, 3, 4, 5).int(), [0], []],
            ValueError,
            "ids: expected one list .* of 1 groups, got 0",
        ),
        (pack_labels, [torch.ones(2, 3, 4, 5).int(), [2], [[1]]], ValueError, r"sample: expected 0 to 1, got \[2\]"),
        (pack_labels, [torch.ones(2, 3, 4, 5).int(), [-1], [[1]]], ValueError, r"sample: expected 0 to 1, got \[-1\]"),
    ],
)
def test_refusals(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_backends_that_cannot_run_say_so():
    masks = random_mask(2, 3, 4, 5)
    for op, call in (
        ("pack_masks", lambda: pack_masks(masks, impl="triton")),
        ("pack_labels", lambda: pack_labels(masks.int(), [0], [[1]], impl="triton")),
        ("unpack_masks", lambda: unpack_masks(BitMasks(pack(masks), 5), impl="triton")),
    ):
        with pytest.raises(BackendError, match=f'{op}: impl="triton" cannot run: '):
            call()
    with pytest.raises(ValueError, match=r"impl: expected one of auto, .* got 'gpu'"):
        pack_masks(masks, impl="gpu")
