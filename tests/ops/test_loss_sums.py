# SPDX-License-Identifier: Apache-2.0
"""The sums of several terms, taken in one pass. Backends are held against the reference in test_backends.py."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsuper_kernels import dispatch
from rsuper_kernels.bits import BitMasks
from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.ops.attenuation_stats import attenuation_stats
from rsuper_kernels.ops.loss_sums import AttenuationStats, BceDice, RegionSums, loss_sums
from rsuper_kernels.ops.loss_sums.op import KINDS, _options, _tensors
from rsuper_kernels.ops.loss_sums.reference import dense_weights
from rsuper_kernels.ops.masked_bce_dice import masked_bce_dice
from rsuper_kernels.ops.pack_bits import pack_masks
from rsuper_kernels.ops.region_sums import region_sums
from tests.helpers import (
    LAYOUTS,
    LOW_PRECISION,
    SHAPES,
    assert_compiles,
    assert_low_precision,
    assert_no_double_backward,
    assert_repeatable,
    logit,
    random_logits,
    random_mask,
    value_and_grad,
)

CPU = torch.device("cpu")
IMPLS = [impl for impl in dispatch.IMPLEMENTATIONS if dispatch.refusal("loss_sums", impl, CPU, torch.float32) is None]
SHAPE = (3, 5, 70)
SAMPLE, CHANNEL = [0, 1, 1, 0], [2, 0, 0, 1]  # a plane twice, two planes not at all
WINDOW = (-20.0, 60.0)
Terms = list[RegionSums | BceDice | AttenuationStats]


def bits(*voxels: int) -> BitMasks:
    """One mask of a row of voxels."""
    return pack_masks(torch.tensor(voxels).reshape(1, 1, 1, -1))


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers).reshape(1, 1, 1, -1)


def row_of_logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([logit(p) for p in probabilities]).reshape(1, 1, 1, 1, -1)


def compact_weights(targets: torch.Tensor, seed: int = 5) -> torch.Tensor:
    """Weights (G, N) of the target voxels, with two to spare."""
    most = int(targets.flatten(1).sum(1).max()) if targets.numel() else 0
    return torch.rand(len(targets), most + 2, generator=torch.Generator().manual_seed(seed)) * 2


def some_terms(*shape: int, seed: int = 0, density: float = 0.4) -> Terms:
    """All kinds, on the same four planes."""
    masks = [random_mask(4, *shape, density=density, seed=10 * seed + i) for i in range(6)]
    region, targets, tumour, organ = (pack_masks(mask) for mask in masks[:4])
    known = pack_masks(random_mask(4, *shape, density=0.8, seed=10 * seed + 6))
    ct = random_logits(2, *shape, scale=40, seed=seed + 1, dtype=torch.float32)
    return [
        RegionSums(region, SAMPLE, CHANNEL),
        BceDice(targets, known, SAMPLE, CHANNEL),
        BceDice(targets, known, SAMPLE, CHANNEL, compact_weights(masks[1])),
        AttenuationStats(ct, tumour, organ, SAMPLE, CHANNEL, WINDOW),
    ]


def joined(terms: Terms, **options):
    """All sums as one vector."""
    return lambda x: torch.cat([part.flatten() for part in loss_sums(x, terms, **options)])


def by_rooms(terms: Terms, **options):
    """The same from the dense public functions."""

    def sums(x: torch.Tensor) -> torch.Tensor:
        parts = []
        for term in terms:
            planes, dense = (term.sample, term.channel), [mask.unpack() for mask in term.masks]
            if isinstance(term, RegionSums):
                voxels = dense[0].flatten(1).sum(1)
                parts.append(torch.stack([region_sums(x, *dense, *planes, **options), voxels.to(x.dtype)], dim=1))
            elif isinstance(term, BceDice):
                weights = None if term.weights is None else dense_weights(term.weights, dense[0])
                named = {"sample": planes[0], "channel": planes[1]}
                parts.append(masked_bce_dice(x, *dense, weights, **named, **options))
            else:
                ct = term.ct.to(x.dtype).clamp(*term.window)
                parts.append(attenuation_stats(ct, x, *dense, *planes, eps=term.eps, **options))
        return torch.cat([part.flatten() for part in parts])

    return sums


@pytest.mark.parametrize("impl", IMPLS)
def test_table_of_regions(impl):
    """p = 0.8 0.4 0.5, the first and the last inside."""
    (sums,) = loss_sums(row_of_logits(0.8, 0.4, 0.5), [RegionSums(bits(1, 0, 1), [0], [0])], impl=impl)
    torch.testing.assert_close(sums, torch.tensor([[1.3, 2.0]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_table_of_cross_entropy_and_dice(impl):
    """Four voxels with p = 0.8 0.4 0.5 0.3, targets 1 0 1 1, the last unknown; weights 2 1 9 of the three targets.

    -ln 0.8 = 0.22314, -ln 0.5 = 0.69315, -ln (1 - 0.4) = 0.51083:
    positive 2 * 0.22314 + 0.69315 = 1.13943, negative 0.51083, tp 1.3, fp 0.4, fn 0.2 + 0.5, known 3.
    """
    x, targets, known = row_of_logits(0.8, 0.4, 0.5, 0.3), bits(1, 0, 1, 1), bits(1, 1, 1, 0)
    weighted = BceDice(targets, known, [0], [0], torch.tensor([[2.0, 1.0, 9.0]]))
    sums = loss_sums(x, [weighted, replace(weighted, weights=None)], impl=impl)
    expected = torch.tensor([[1.13943, 0.51083, 1.3, 0.4, 0.7, 3], [0.91629, 0.51083, 1.3, 0.4, 0.7, 3]])
    torch.testing.assert_close(torch.cat(sums), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_table_of_attenuation(impl):
    """Two voxels with p = 0.5 0.25 in tumour and organ, 10 and 500 HU, clipped to 240.

    Tumour: weight 0.75, mean (5 + 60) / 0.75 = 86.667, variance (0.5 * 76.667^2 + 0.25 * 153.333^2) / 0.75 = 11755.6.
    Organ: weights 0.5 0.75, mean (5 + 180) / 1.25 = 148, variance (0.5 * 138^2 + 0.75 * 92^2) / 1.25 = 12696.
    """
    term = AttenuationStats(row(10.0, 500.0), bits(1, 1), bits(1, 1), [0], [0], (-160, 240), eps=0.0)
    (sums,) = loss_sums(row_of_logits(0.5, 0.25), [term], impl=impl)
    expected = torch.tensor([[[0.75, 86.66667, math.sqrt(11755.556)], [1.25, 148, math.sqrt(12696)]]])
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_voxel(impl):
    """p = 0.5 is inside, a target of weight 3, and tumour without organ: everything by itself."""
    one, x = bits(1), torch.zeros(1, 1, 1, 1, 1)
    terms = [
        RegionSums(one, [0], [0]),
        BceDice(one, one, [0], [0], torch.tensor([[3.0]])),
        AttenuationStats(row(70.0), one, bits(0), [0], [0], eps=0.5),
    ]
    region, bce_dice, stats = loss_sums(x, terms, impl=impl)
    assert region.tolist() == [[0.5, 1.0]]
    expected = torch.tensor([[3 * math.log(2), 0, 0.5, 0, 0.5, 1]])
    torch.testing.assert_close(bce_dice, expected, rtol=1e-6, atol=0)
    # with half a voxel beside it, the mean is 35, and so is what the one voxel is away from it: sd^2 = 35^2 / 2
    torch.testing.assert_close(stats[0], torch.tensor([[0.5, 35, 35 / math.sqrt(2)], [0, 0, 0]]))


@pytest.mark.parametrize("impl", IMPLS)
def test_table_of_gradients(impl):
    """At x = 0 dp = 0.25, d(-log p) = -0.5, d(-log(1 - p)) = 0.5; target and background voxel, both in the region."""
    both, x = bits(1, 1), torch.zeros(1, 1, 1, 1, 2, requires_grad=True)
    terms = [RegionSums(both, [0], [0]), BceDice(bits(1, 0), both, [0], [0], torch.tensor([[3.0]]))]
    region, sums = loss_sums(x, terms, impl=impl)
    slopes = {0: [-1.5, 0], 1: [0, 0.5], 2: [0.25, 0], 3: [0, 0.25], 4: [-0.25, 0], 5: [0, 0]}
    for index, expected in slopes.items():
        (grad,) = torch.autograd.grad(sums[0, index], x, retain_graph=True)
        assert grad.flatten().tolist() == expected, index
    (grad,) = torch.autograd.grad(region.sum() + 2 * sums[0, 0], x)
    assert grad.flatten().tolist() == [0.25 - 3, 0.25]


@pytest.mark.parametrize("shape", [*SHAPES, SHAPE], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_equals_the_rooms(shape, activation):
    logits, terms = random_logits(2, 3, *shape), some_terms(*shape)
    logits = logits if activation == "sigmoid" else logits.sigmoid()
    got = value_and_grad(joined(terms, activation=activation), logits)
    expected = value_and_grad(by_rooms(terms, activation=activation), logits)
    for tensor, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(tensor, truth)


@given(seed=st.integers(0, 99), density=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_equals_the_rooms_in_float32(seed, density):
    """Up to rounding: for bits, logarithms are taken of products and four logistics share a division."""
    logits, terms = random_logits(2, 3, *SHAPE, seed=seed, dtype=torch.float32), some_terms(*SHAPE, density=density)
    got, expected = value_and_grad(joined(terms), logits), value_and_grad(by_rooms(terms), logits)
    torch.testing.assert_close(got[0], expected[0], rtol=2e-6, atol=1e-4)  # CT of 60 HU to 1e-6
    torch.testing.assert_close(got[1], expected[1], rtol=0, atol=2e-6 * float(expected[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_terms_add_up_in_the_gradient(dtype):
    logits, terms = random_logits(2, 3, *SHAPE, dtype=dtype), some_terms(*SHAPE)
    alone = [value_and_grad(joined([term]), logits) for term in terms]
    leaf = logits.clone().requires_grad_()
    parts = loss_sums(leaf, terms)
    generators = [torch.Generator().manual_seed(7) for _ in terms]
    grads = [
        (torch.rand(part.numel(), generator=generator, dtype=torch.float64) * 2 - 0.7).to(part.dtype).view_as(part)
        for part, generator in zip(parts, generators, strict=True)
    ]
    torch.autograd.backward(parts, grads)
    for part, (value, _) in zip(parts, alone, strict=True):
        assert torch.equal(part.flatten(), value)  # a term does not feel its neighbours
    total = sum(grad for _, grad in alone)
    torch.testing.assert_close(leaf.grad, total, rtol=1e-5, atol=2e-6 * float(total.abs().max()))
    assert not any(leaf.grad[plane].any() for plane in [(0, 0), (1, 1), (1, 2)])  # served no group
    assert all(leaf.grad[plane].any() for plane in [(0, 1), (0, 2), (1, 0)])


def test_parts_that_are_not_used_have_no_gradient():
    logits, terms = random_logits(2, 3, *SHAPE).requires_grad_(), some_terms(*SHAPE)
    (grad,) = torch.autograd.grad(loss_sums(logits, terms)[0].sum(), logits)
    (alone,) = torch.autograd.grad(loss_sums(logits, terms[:1])[0].sum(), logits)
    torch.testing.assert_close(grad, alone, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("impl", IMPLS)
def test_weights_are_those_of_the_target_voxels_in_their_order(impl):
    """In groups of their own, over rows, words and pieces of rows; to spare are some, and none for the background."""
    for shape in [(2, 3, 70), (1, 2, 2200)]:
        targets, everywhere = random_mask(2, *shape), BitMasks.full(2, shape, CPU)
        weights = torch.full((2, int(targets.flatten(1).sum(1).max()) + 3), 1e6)
        for g in range(2):
            weights[g, : int(targets[g].sum())] = targets[g].flatten().nonzero().flatten() + 1.0
        term = BceDice(pack_masks(targets), everywhere, [0, 0], [0, 1], weights)
        x = torch.zeros(1, 2, *shape, requires_grad=True)
        loss_sums(x, [term], impl=impl)[0][:, :2].sum().backward()
        index = torch.arange(1.0, math.prod(shape) + 1).view(shape)
        assert torch.equal(x.grad[0], torch.where(targets, -0.5 * index, 0.5))


# what is empty


@pytest.mark.parametrize("impl", IMPLS)
def test_no_groups(impl):
    assert loss_sums(torch.zeros(1, 1, *SHAPE), [], impl=impl) == []
    none, ct = BitMasks.zeros(0, SHAPE, CPU), torch.zeros(2, *SHAPE)
    terms: Terms = [
        RegionSums(none, [], []),
        BceDice(none, none, [], []),
        BceDice(none, none, [], [], torch.zeros(0, 4)),
        AttenuationStats(ct, none, none, [], []),
    ]
    logits = random_logits(2, 3, *SHAPE, dtype=torch.float32)
    assert [part.shape for part in loss_sums(logits, terms, impl=impl)] == [(0, 2), (0, 6), (0, 6), (0, 2, 3)]
    for given_terms in (terms, terms[:1]):
        value, grad = value_and_grad(joined(given_terms, impl=impl), logits)
        assert value.shape == (0,)
        assert not grad.any()
    # beside terms that have groups
    full = some_terms(*SHAPE)
    mixed = value_and_grad(joined([terms[1], full[0], terms[3], full[2], terms[0]], impl=impl), logits)
    for got, expected in zip(mixed, value_and_grad(joined([full[0], full[2]], impl=impl), logits), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 5, 70), (3, 0, 70), (3, 5, 0)], ids=str)
def test_no_voxels(shape, impl):
    logits = torch.zeros(2, 3, *shape)
    value, grad = value_and_grad(joined(some_terms(*shape), impl=impl), logits)
    assert not value.any()
    assert grad.shape == logits.shape
    empty_batch = value_and_grad(joined([RegionSums(BitMasks.zeros(0, SHAPE, CPU), [], [])]), torch.zeros(0, 3, *SHAPE))
    assert empty_batch[1].shape == (0, 3, *SHAPE)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [*SHAPES, SHAPE], ids=str)
def test_empty_masks(shape, impl):
    logits, nothing = random_logits(2, 3, *shape, dtype=torch.float32), BitMasks.zeros(4, shape, CPU)
    planes, ct = (SAMPLE, CHANNEL), torch.full((2, *shape), 50.0)
    weights = torch.ones(4, math.prod(shape))
    terms: Terms = [
        RegionSums(nothing, *planes),
        BceDice(BitMasks.full(4, shape, CPU), nothing, *planes, weights),
        BceDice(nothing, nothing, *planes),
        AttenuationStats(ct, nothing, nothing, *planes),
    ]
    value, grad = value_and_grad(joined(terms, impl=impl), logits)
    assert not value.any()
    assert not grad.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("size", [60.0, 1e4, 3e38])
def test_extreme_logits(size, impl):
    """log(1 + exp(x)) is x for large x: no overflow, and slopes of 0 and 1; in words with and without a target."""
    for voxels in ([1, 0, 1, 0], [0, 0, 0, 0]):
        targets, everywhere = bits(*voxels), bits(1, 1, 1, 1)
        x = torch.tensor([size, size, -size, -size]).reshape(1, 1, 1, 1, 4).requires_grad_()
        terms = [BceDice(targets, everywhere, [0], [0]), RegionSums(everywhere, [0], [0])]
        sums, region = loss_sums(x, terms, impl=impl)
        assert region.tolist() == [[2, 4]]
        wrong = [size, size, 1, 1, 1, 4] if any(voxels) else [0, 2 * size if size < 1e38 else math.inf, 0, 2, 0, 4]
        torch.testing.assert_close(sums, torch.tensor([wrong]))
        (grad,) = torch.autograd.grad(sums[0, :2].sum(), x)
        slopes = torch.tensor([0.0, 1, -1, 0] if any(voxels) else [1.0, 1, 0, 0])
        torch.testing.assert_close(grad.flatten(), slopes, atol=1e-20, rtol=1e-6)


# what does not matter


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_gradcheck(activation):
    terms = some_terms(2, 3, 2)
    logits = random_logits(2, 3, 2, 3, 2)
    logits = (logits if activation == "sigmoid" else logits.sigmoid()).requires_grad_()
    assert torch.autograd.gradcheck(joined(terms, activation=activation, impl="reference"), logits)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_low_precision(dtype):
    assert_low_precision(joined(some_terms(17, 23, 9)), random_logits(2, 3, 17, 23, 9), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("impl", IMPLS)
def test_strides(layout, impl):
    logits, terms = random_logits(2, 3, *SHAPE, dtype=torch.float32), some_terms(*SHAPE)
    moved = [
        replace(term, ct=layout(term.ct))
        if isinstance(term, AttenuationStats)
        else replace(term, weights=layout(term.weights))
        if isinstance(term, BceDice) and term.weights is not None
        else term
        for term in terms
    ]
    got = value_and_grad(joined(moved, impl=impl), layout(logits))
    for tensor, truth in zip(got, value_and_grad(joined(terms, impl=impl), logits), strict=True):
        torch.testing.assert_close(tensor, truth, rtol=1e-5, atol=1e-4)  # another order of summing, of 60 HU


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [*LOW_PRECISION, torch.float64, torch.int16, torch.int32], ids=str)
def test_ct_of_any_type_is_clipped_to_the_very_window(dtype, impl):
    """1001 and 241 have no bfloat16."""
    term = AttenuationStats(row(-2000.0, 300.0).to(dtype), bits(1, 0), bits(0, 1), [0], [0], (-1001, 241), eps=0.0)
    (stats,) = loss_sums(torch.zeros(1, 1, 1, 1, 2), [term], impl=impl)
    assert stats.flatten().tolist() == [0.5, -1001, 0, 1, 241, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_weights_of_float64(impl):
    logits, terms = random_logits(2, 3, *SHAPE, dtype=torch.float32), some_terms(*SHAPE)
    double = replace(terms[2], weights=terms[2].weights.double())
    for got, expected in zip(
        value_and_grad(joined([double], impl=impl), logits),
        value_and_grad(joined([terms[2]], impl=impl), logits),
        strict=True,
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_deterministic(impl):
    terms = some_terms(*SHAPE)
    tensors = [mask.words for term in terms for mask in term.masks] + [terms[2].weights, terms[3].ct]
    before = [tensor.clone() for tensor in tensors]
    assert_repeatable(joined(terms, impl=impl), random_logits(2, 3, *SHAPE, dtype=torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_threads_do_not_change_anything(dtype, activation):
    for shape in [(20, 31, 37), (2, 3, 4100)]:
        logits = random_logits(2, 3, *shape, dtype=torch.float32).sigmoid().to(dtype)
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(value_and_grad(joined(some_terms(*shape), activation=activation), logits))
        torch.set_num_threads(1)
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two)


# what torch makes of it, and what is refused


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_opcheck(dtype, impl):
    logits, terms = random_logits(2, 3, 2, 3, 2, dtype=dtype).requires_grad_(), some_terms(2, 3, 2)
    tables = (
        [tensor for term in terms for tensor in _tensors(logits, term)],
        [KINDS.index(type(term)) for term in terms],
        [4] * len(terms),
        SAMPLE * len(terms),
        CHANNEL * len(terms),
        [option for term in terms for option in _options(term)],
        "sigmoid",
        impl,
    )
    torch.library.opcheck(torch.ops.rsuper.loss_sums.default, (logits, *tables))
    backward = (torch.rand(4 * (2 + 6 + 6 + 6)), logits.detach(), torch.empty(0, dtype=torch.float64), *tables)
    torch.library.opcheck(torch.ops.rsuper.loss_sums_backward.default, backward)


def test_compile():
    assert_compiles(joined(some_terms(2, 3, 70)), random_logits(2, 3, 2, 3, 70, dtype=torch.float32))


def test_refuses_what_has_no_gradient():
    logits, terms = random_logits(2, 3, *SHAPE), some_terms(*SHAPE)
    assert_no_double_backward(joined(terms), logits, "loss_sums")
    assert not joined(terms)(logits).requires_grad
    needy = replace(terms[2], weights=terms[2].weights.clone().requires_grad_())
    for leaf in (logits, logits.clone().requires_grad_()):
        with pytest.raises(NotImplementedError, match="loss_sums: gradients reach logits only; detach the weights"):
            joined([terms[0], needy])(leaf).sum().backward()


FULL = BitMasks.full(1, (2, 3, 4), CPU)
TWO = BitMasks.full(2, (2, 3, 4), CPU)
META = BitMasks.zeros(1, (2, 3, 4), torch.device("meta"))
CT = torch.zeros(1, 2, 3, 4)


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (
            RegionSums(TWO, [0], [0]),
            ValueError,
            r"terms\[1\]: expected bit masks of \(1, 2, 3, 4\), got \(2, 2, 3, 4\)",
        ),
        (RegionSums(BitMasks(FULL.words, 5), [0], [0]), ValueError, r"terms\[1\]: .*got \(1, 2, 3, 5\)"),
        (RegionSums(FULL, [1], [0]), ValueError, r"sample\[0\]: expected 0 to 0 .* got 1"),
        (RegionSums(FULL, [0], [3]), ValueError, r"channel\[0\]: expected 0 to 2 .* got 3"),
        (RegionSums(FULL, [0], [-1]), ValueError, r"channel\[0\]: expected 0 to 2 .* got -1"),
        (RegionSums(FULL, [0], [0, 1]), ValueError, "sample, channel: expected equally many, got 1 and 2"),
        (RegionSums(META, [0], [0]), ValueError, r"terms\[1\]: expected on the device of logits \(cpu\), got meta"),
        (BceDice(FULL, TWO, [0], [0]), ValueError, r"terms\[1\]: expected bit masks"),
        (BceDice(FULL, META, [0], [0]), ValueError, r"terms\[1\]: expected on the device"),
        (BceDice(FULL, FULL, [0], [0], CT[0, 0]), ValueError, r"terms\[1\].weights: expected \(G, N\) = \(1, 4\)"),
        (BceDice(FULL, FULL, [0], [0], CT), ValueError, r"terms\[1\].weights: expected \(G, N\) = \(1, 2\), got"),
        (BceDice(FULL, FULL, [0], [0], torch.ones(24)), ValueError, r"terms\[1\].weights: expected \(G, N\)"),
        (
            BceDice(FULL, FULL, [0], [0], torch.ones(1, 24).half()),
            TypeError,
            r"terms\[1\].weights: .*got torch.float16",
        ),
        (BceDice(FULL, FULL, [0], [0], torch.ones(1, 24).int()), TypeError, r"terms\[1\].weights: .*got torch.int32"),
        (
            BceDice(FULL, FULL, [0], [0], torch.ones(1, 24, device="meta")),
            ValueError,
            r"terms\[1\].weights: .*got meta",
        ),
        (AttenuationStats(CT[:, :1], FULL, FULL, [0], [0]), ValueError, r"terms\[1\].ct: expected \(B, D, H, W\) = "),
        (AttenuationStats(CT.to("meta"), FULL, FULL, [0], [0]), ValueError, r"terms\[1\].ct: .*got meta"),
        (AttenuationStats(CT, FULL, TWO, [0], [0]), ValueError, r"terms\[1\]: expected bit masks"),
    ],
)
def test_refusals(term, error, message):
    logits, good = torch.zeros(1, 3, 2, 3, 4), RegionSums(FULL, [0], [0])
    with pytest.raises(error, match=message):
        loss_sums(logits, [good, term])


def test_refusals_of_the_call():
    logits, terms = torch.zeros(1, 3, 2, 3, 4), [RegionSums(FULL, [0], [0])]
    with pytest.raises(ValueError, match="activation: expected one of sigmoid, identity, got 'tanh'"):
        loss_sums(logits, terms, activation="tanh")
    with pytest.raises(BackendError, match='loss_sums: impl="triton" cannot run: '):
        loss_sums(logits, terms, impl="triton")
    with pytest.raises(TypeError, match="logits: expected a floating-point tensor"):
        loss_sums(logits.int(), terms)
    with pytest.raises(ValueError, match=r"logits: expected \(B, C, D, H, W\)"):
        loss_sums(logits[0], terms)


@pytest.mark.skipif("cpu" not in IMPLS, reason="needs the compiled module")
def test_too_few_weights_are_refused():
    term = BceDice(FULL, FULL, [0], [0], torch.ones(1, 23))
    with pytest.raises(ValueError, match="weights: expected one for each of 24 target voxels of group 0, got 23"):
        loss_sums(torch.zeros(1, 1, 2, 3, 4), [term], impl="cpu")
