# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the joint sums: a launch for each term reads its planes of the logits, one writes the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.ops.attenuation_stats.triton_kernel import add_up_moments
from rsuper_kernels.ops.loss_sums.op import STATE_WORDS, output_count, state_size
from rsuper_kernels.ops.loss_sums.triton_terms import (
    attenuation_partials,
    attenuation_slopes,
    bce_dice_partials,
    bce_dice_slopes,
    region_partials,
    region_slopes,
)
from rsuper_kernels.tables import groups_of_planes, planes_of, split
from rsuper_kernels.tiles import (
    LANES,
    ODD,
    PLAIN,
    Tiles,
    add_up,
    count_bits,
    halves,
    is_last,
    plane_start,
    readable,
    voxels_of,
    words_at,
)

# What a term is; the first three as in op.py.
REGIONS, BCE_DICE, ATTENUATION, WEIGHTED_BCE_DICE, NOTHING = (tl.constexpr(kind) for kind in range(5))
# Outputs of a group.
SIZES = tl.constexpr((2, 6, 6, 6))
# Terms of one launch of backward, each with three tensors among the arguments.
SLOTS = tl.constexpr(4)
# The table of backward begins with three numbers of each slot.
BEGINS = tl.constexpr(3 * SLOTS.value)
# Words between the target voxels that are counted, and how many such spans a program takes.
SPAN = tl.constexpr(STATE_WORDS)
SPANS = tl.constexpr(32)


@dataclass(frozen=True)
class _Term:
    kind: int
    tensors: list[torch.Tensor]
    planes: list[int]
    """Of each group."""
    options: list[float]
    output: int
    """The first one."""
    starts: int
    """Where the state holds the target voxels before each span of each group."""

    @property
    def count(self) -> int:
        """Weights of a group."""
        return self.tensors[2].shape[1] if self.kind == WEIGHTED_BCE_DICE.value else 0


def loss_sums(
    logits: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[int],
    counts: Sequence[int],
    sample: Sequence[int],
    channel: Sequence[int],
    options: Sequence[float],
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums of all terms, flat, and the same in float64 with what backward wants to know; see reference.py."""
    logits, tiles = logits.contiguous(), Tiles(logits)
    terms = _terms(logits, tiles, tensors, kinds, counts, sample, channel, options)
    outputs, size = output_count(kinds, counts), state_size(logits, tensors, kinds, counts)
    if tiles.count == 0 or outputs == 0:
        return logits.new_zeros(outputs, dtype=torch.float32), logits.new_zeros(size, dtype=torch.float64)
    sums = logits.new_empty(outputs, dtype=torch.float32)
    state = logits.new_empty(size, dtype=torch.float64)
    partials = logits.new_empty(outputs, tiles.count, dtype=torch.float32)
    counters = gpu.counters(logits.device)
    for term in terms:
        if term.kind == WEIGHTED_BCE_DICE.value:
            _count_targets(term, tiles, state, counters)
        planes = sorted(set(term.planes))
        first, second, extra = term.tensors
        gpu.launch_triton(
            loss_sums_fwd_kernel,
            (tiles.count, len(planes)),
            logits=logits,
            partials=partials,
            sums=sums,
            state=state,
            counters=counters,
            table=gpu.table(groups_of_planes(term.planes, planes), torch.int32, logits.device),
            settings=gpu.table(term.options, torch.float64, logits.device),
            first=first,
            second=second,
            extra=extra,
            output=term.output,
            starts=term.starts,
            count=term.count,
            KIND=term.kind,
            SIGMOID=activation == "sigmoid",
            channels=logits.shape[1],
            spans=_spans(tiles),
            **tiles.arguments(),
        )
    return sums, state


def loss_sums_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    state: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[int],
    counts: Sequence[int],
    sample: Sequence[int],
    channel: Sequence[int],
    options: Sequence[float],
    activation: str,
) -> torch.Tensor:
    """Gradient of the logits; see reference.py."""
    logits, tiles = logits.contiguous(), Tiles(logits)
    terms = _terms(logits, tiles, tensors, kinds, counts, sample, channel, options)
    # one launch without any term writes a gradient of zeros
    launches = [terms[start : start + SLOTS.value] for start in range(0, len(terms), SLOTS.value)] or [[]]
    # rounded once, after the last launch
    out = torch.empty_like(logits, dtype=logits.dtype if len(launches) == 1 else torch.float32)
    grad = grad.float().contiguous()
    for index, some in enumerate(launches):
        table = _table_of_slots(some, tiles.planes, logits.device)
        gpu.launch_triton(
            loss_sums_bwd_kernel,
            (tiles.count, tiles.planes),
            grad=grad,
            logits=logits,
            out=out,
            state=state,
            table=table,
            ADD=index > 0,
            **_slots(some, table, activation),
            channels=logits.shape[1],
            spans=_spans(tiles),
            **tiles.arguments(),
        )
    return out.to(logits.dtype)


def _terms(
    logits: torch.Tensor,
    tiles: Tiles,
    tensors: Sequence[torch.Tensor],
    kinds: Sequence[int],
    counts: Sequence[int],
    sample: Sequence[int],
    channel: Sequence[int],
    options: Sequence[float],
) -> list[_Term]:
    """The terms that have groups."""
    terms, output, starts = [], 0, output_count(kinds, counts)
    for t, (kind, samples, channels) in enumerate(
        zip(kinds, split(sample, counts), split(channel, counts), strict=True)
    ):
        masks, extra = [halves(words) for words in tensors[3 * t : 3 * t + 2]], readable(tensors[3 * t + 2])
        weighted = kind == BCE_DICE.value and extra.numel() > 0
        planes = planes_of(logits, samples, channels)
        if planes:
            kind = WEIGHTED_BCE_DICE.value if weighted else kind
            terms.append(_Term(kind, [*masks, extra], planes, list(options[3 * t : 3 * t + 3]), output, starts))
            output += SIZES.value[kind] * len(planes)
            starts += _spans(tiles) * len(planes) if weighted else 0
    return terms


def _spans(tiles: Tiles) -> int:
    return -(-tiles.words // SPAN.value)


def _count_targets(term: _Term, tiles: Tiles, state: torch.Tensor, counters: torch.Tensor) -> None:
    gpu.launch_triton(
        target_starts_kernel,
        (-(-_spans(tiles) // SPANS.value), len(term.planes)),
        targets=term.tensors[0],
        state=state,
        counters=counters,
        starts=term.starts,
        spans=_spans(tiles),
        words=tiles.words,
        row_words=tiles.row_words,
        mask_words=tiles.mask_words,
    )


def _table_of_slots(terms: Sequence[_Term], planes: int, device: torch.device) -> torch.Tensor:
    """The numbers of each slot, where the groups of each plane and slot begin and end, the groups."""
    groups: list[list[int]] = [[] for _ in range(planes * SLOTS.value)]
    for slot, term in enumerate(terms):
        for group, plane in enumerate(term.planes):
            groups[plane * SLOTS.value + slot].append(group)
    numbers = [(term.output, term.starts, term.count) for term in terms] + [(0, 0, 0)] * (SLOTS.value - len(terms))
    begins = itertools.accumulate((len(some) for some in groups), initial=BEGINS.value + len(groups) + 1)
    return gpu.table([*itertools.chain(*numbers), *begins, *itertools.chain(*groups)], torch.int32, device)


def _slots(terms: Sequence[_Term], unused: torch.Tensor, activation: str) -> dict[str, Any]:
    """The tensors, options and kinds of four slots as arguments of the kernels."""
    arguments: dict[str, Any] = {}
    for slot in range(SLOTS.value):
        tensors = terms[slot].tensors if slot < len(terms) else [unused] * 3
        names = (f"first{slot}", f"second{slot}", f"extra{slot}")
        arguments.update(zip(names, tensors, strict=True))
    options = [option for term in terms for option in term.options]
    kinds = [term.kind for term in terms] + [NOTHING.value] * (SLOTS.value - len(terms))
    arguments["settings"] = gpu.table(options, torch.float64, unused.device)
    return {**arguments, "KINDS": tuple(kinds), "SIGMOID": activation == "sigmoid"}


def _most_forward(arguments: Mapping[str, Any]) -> int:
    """Registers, as few as hold all numbers: rows that vectors do not divide take more, as do weights."""
    if arguments["ROWS"] == ODD.value:
        return 128
    return 112 if arguments["KIND"] == WEIGHTED_BCE_DICE.value else 96


def _most_backward(arguments: Mapping[str, Any]) -> int:
    return 168 if arguments["ROWS"] == ODD.value else 128


@triton.jit(do_not_specialize=PLAIN)
def target_starts_kernel(targets, state, counters, starts, spans, words, row_words, mask_words):
    """Target voxels of each group before each span, (groups, spans) from `starts` on in the state."""
    group = tl.program_id(1)
    span = tl.program_id(0) * SPANS + tl.arange(0, SPANS)
    word = span[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    row = word // row_words
    index = row * ((row_words + 1) // 2 * 2) + word - row * row_words
    held = tl.load(targets + group.to(tl.int64) * mask_words + index, mask=word < words, other=0)
    state += starts + group.to(tl.int64) * spans
    tl.store(state + span, tl.sum(count_bits(held), axis=1).to(tl.float64), mask=span < spans)
    if is_last(counters + group, tl.num_programs(0)):
        before = tl.zeros((1,), tl.float64)
        for start in range(0, spans, 1024):
            some = start + tl.arange(0, 1024)
            counts = tl.load(state + some, mask=some < spans, other=0, cache_modifier=".cg")
            tl.store(state + some, before + tl.cumsum(counts, 0) - counts, mask=some < spans)
            before += tl.sum(counts, keep_dims=True)


@gpu.registers(_most_forward)
@triton.jit(do_not_specialize=PLAIN)
def loss_sums_fwd_kernel(
    logits, partials, sums, state, counters, table, settings, first, second, extra, output, starts, count,
    channels, spans, words, row_words, mask_words, voxels, width,
    KIND: tl.constexpr, SIGMOID: tl.constexpr,
    TILE: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Sums of the groups of a term, on the planes of logits where it has any."""
    tile, tiles, sizes = tl.program_id(0), tl.num_programs(0), (words, row_words, width)
    plane, begins = tl.load(table + tl.program_id(1)), table + tl.num_programs(1) + tl.program_id(1)
    x = logits + plane_start(plane, voxels, ROWS)
    for entry in range(tl.load(begins), tl.load(begins + 1)):
        group = tl.load(table + entry).to(tl.int64)
        first_mask, second_mask = first + group * mask_words, second + group * mask_words
        out = partials + (output + group * SIZES[KIND]) * tiles + tile
        if KIND == REGIONS:
            region_partials(x, tile * TILE, sizes, first_mask, out, tiles, SIGMOID, TILE, PART, VECTOR, ROWS)
        elif KIND == ATTENUATION:
            attenuation_partials(
                x, tile * TILE, sizes, extra + plane_start(plane // channels, voxels, ROWS), first_mask, second_mask,
                settings, out, tiles, SIGMOID, TILE, PART, VECTOR, ROWS,
            )  # fmt: skip
        else:
            bce_dice_partials(
                x, tile * TILE, sizes, first_mask, second_mask,
                extra + group * count, count, state + starts + group * spans + tile * TILE // SPAN, out, tiles,
                KIND == WEIGHTED_BCE_DICE, SIGMOID, TILE, PART, VECTOR, ROWS,
            )  # fmt: skip
    if is_last(counters + tl.program_id(1), tiles):
        for entry in range(tl.load(begins), tl.load(begins + 1)):
            at = output + tl.load(table + entry).to(tl.int64) * SIZES[KIND]
            if KIND == ATTENUATION:
                add_up_moments(partials + at * tiles, tiles, tl.load(settings + 2), sums + at, state + at)
            else:
                add_up(partials + at * tiles, tiles, sums + at, state + at, SIZES[KIND])


@gpu.registers(_most_backward)
@triton.jit(do_not_specialize=PLAIN)
def loss_sums_bwd_kernel(
    grad, logits, out, state, table, settings,
    first0, second0, extra0, first1, second1, extra1, first2, second2, extra2, first3, second3, extra3,
    channels, spans, words, row_words, mask_words, voxels, width,
    KINDS: tl.constexpr, SIGMOID: tl.constexpr, ADD: tl.constexpr,
    TILE: tl.constexpr, PART: tl.constexpr, VECTOR: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of every plane of logits, and what `out` holds already if ADD."""
    tile, sizes, plane = tl.program_id(0), (words, row_words, width), tl.program_id(1)
    x, begins = logits + plane_start(plane, voxels, ROWS), table + BEGINS + plane * SLOTS
    out += plane_start(plane, voxels, ROWS)
    firsts, seconds = (first0, first1, first2, first3), (second0, second1, second2, second3)
    extras = (extra0, extra1, extra2, extra3)
    for part in range(tile * TILE, tl.minimum(tile * TILE + TILE, words), PART):
        slopes = tl.zeros((PART, LANES), tl.float32)
        for slot in tl.static_range(SLOTS):
            if KINDS[slot] != NOTHING:
                numbers = table + 3 * slot
                output, starts, count = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
                for entry in range(tl.load(begins + slot), tl.load(begins + slot + 1)):
                    group = tl.load(table + entry).to(tl.int64)
                    first, second = firsts[slot] + group * mask_words, seconds[slot] + group * mask_words
                    at = output + group * SIZES[KINDS[slot]]
                    if KINDS[slot] == REGIONS:
                        slopes = region_slopes(slopes, x, part, sizes, first, grad + at, SIGMOID, PART, VECTOR, ROWS)
                    elif KINDS[slot] == ATTENUATION:
                        ct = extras[slot] + plane_start(plane // channels, voxels, ROWS)
                        slopes = attenuation_slopes(
                            slopes, x, part, sizes, ct, first, second, settings + 3 * slot, state + at, grad + at,
                            SIGMOID, PART, VECTOR, ROWS,
                        )  # fmt: skip
                    else:
                        slopes = bce_dice_slopes(
                            slopes, x, part, sizes, first, second,
                            extras[slot] + group * count, count, state + starts + group * spans + part // SPAN,
                            grad + at,
                            KINDS[slot] == WEIGHTED_BCE_DICE, SIGMOID, SPAN, PART, VECTOR, ROWS,
                        )  # fmt: skip
        _, row, place, exists = words_at(part, sizes, PART, ROWS)
        offsets, inside = voxels_of(row, place, exists, sizes, ROWS)
        if ADD:
            slopes += tl.load(out + offsets, mask=inside, other=0)
        tl.store(out + offsets, slopes.to(out.dtype.element_ty), mask=inside)
