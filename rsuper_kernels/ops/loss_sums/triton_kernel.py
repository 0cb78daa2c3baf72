# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the joint sums: one launch reads the logits for all terms, one writes the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from rsuper_kernels import gpu
from rsuper_kernels.ops.attenuation_stats.triton_kernel import add_up_moments
from rsuper_kernels.ops.loss_sums.op import output_count
from rsuper_kernels.ops.loss_sums.triton_terms import (
    attenuation_partials,
    attenuation_slopes,
    bce_dice_partials,
    bce_dice_slopes,
    region_partials,
    region_slopes,
)
from rsuper_kernels.tables import split
from rsuper_kernels.tiles import (
    LANES,
    Tiles,
    add_up,
    count_bits,
    halves,
    is_last,
    load_words,
    plane_start,
    readable,
    tile_voxels,
    tile_words,
)

# Terms of one launch, each with three tensors among the arguments.
SLOTS = tl.constexpr(4)
# What a slot holds; the first three as in op.py.
REGIONS, BCE_DICE, ATTENUATION, WEIGHTED_BCE_DICE, NOTHING = (tl.constexpr(kind) for kind in range(5))
# Outputs of a group.
SIZES = tl.constexpr((2, 6, 6, 6))
# Of each slot, the table begins with its first output, where its target voxels before each tile are in the state, and
# how many weights a group has.
ENTRIES = tl.constexpr(3 * SLOTS.value)
# Tiles whose target voxels a program counts.
SPAN = tl.constexpr(16)


@dataclass(frozen=True)
class _Term:
    kind: int
    tensors: list[torch.Tensor]
    planes: list[int]
    """Of each group."""
    options: list[float]
    first: int
    """Of its outputs."""
    starts: int
    """In the state."""

    def numbers(self) -> tuple[int, int, int]:
        return self.first, self.starts, self.tensors[2].shape[1] if self.kind == WEIGHTED_BCE_DICE.value else 0


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
    terms, size = _terms(logits, tiles, tensors, kinds, counts, sample, channel, options)
    outputs = output_count(kinds, counts)
    if tiles.count == 0 or outputs == 0:
        return logits.new_zeros(outputs, dtype=torch.float32), logits.new_zeros(size, dtype=torch.float64)
    sums = logits.new_empty(outputs, dtype=torch.float32)
    state = logits.new_empty(size, dtype=torch.float64)
    partials = logits.new_empty(outputs, tiles.count, dtype=torch.float32)
    counters = gpu.counters(logits.device)
    for term in terms:
        if term.kind == WEIGHTED_BCE_DICE.value:
            _count_targets(term, tiles, state, counters)
    for some in _launches(terms):
        table, active = _table(some, tiles.planes, logits.device)
        gpu.launch_triton(
            loss_sums_fwd_kernel,
            (tiles.count, len(active)),
            logits=logits,
            partials=partials,
            sums=sums,
            state=state,
            counters=counters,
            table=table,
            active=gpu.table(active, torch.int64, logits.device),
            **_slots(some, table, activation),
            channels=logits.shape[1],
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
    terms, _ = _terms(logits, tiles, tensors, kinds, counts, sample, channel, options)
    launches = _launches(terms)
    # rounded once, after the last launch
    out = torch.empty_like(logits, dtype=logits.dtype if len(launches) == 1 else torch.float32)
    grad = grad.float().contiguous()
    for index, some in enumerate(launches):
        table, _ = _table(some, tiles.planes, logits.device)
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
) -> tuple[list[_Term], int]:
    """The terms that have groups, and the length of the state."""
    terms, first, starts = [], 0, output_count(kinds, counts)
    for t, (kind, samples, channels) in enumerate(
        zip(kinds, split(sample, counts), split(channel, counts), strict=True)
    ):
        masks, extra = [halves(words) for words in tensors[3 * t : 3 * t + 2]], readable(tensors[3 * t + 2])
        weighted = kind == BCE_DICE.value and extra.numel() > 0
        planes = [b * logits.shape[1] + c for b, c in zip(samples, channels, strict=True)]
        if planes:
            kind = WEIGHTED_BCE_DICE.value if weighted else kind
            terms.append(_Term(kind, [*masks, extra], planes, list(options[3 * t : 3 * t + 3]), first, starts))
            first += SIZES.value[kind] * len(planes)
            starts += tiles.count * len(planes) if weighted else 0
    return terms, starts


def _launches(terms: Sequence[_Term]) -> list[Sequence[_Term]]:
    """As many terms as a launch takes, and again; one launch without any writes a gradient of zeros."""
    return [terms[start : start + SLOTS.value] for start in range(0, max(len(terms), 1), SLOTS.value)]


def _count_targets(term: _Term, tiles: Tiles, state: torch.Tensor, counters: torch.Tensor) -> None:
    sizes = {name: tiles.arguments()[name] for name in ("words", "row_words", "mask_words", "TILE")}
    gpu.launch_triton(
        target_starts_kernel,
        (-(-tiles.count // SPAN.value), len(term.planes)),
        targets=term.tensors[0],
        starts=state[term.starts :],
        counters=counters,
        tiles=tiles.count,
        **sizes,
    )


def _table(terms: Sequence[_Term], planes: int, device: torch.device) -> tuple[torch.Tensor, list[int]]:
    """What the kernels look up, and the planes that have groups.

    The numbers of each slot; where the groups of each plane and slot begin; those groups.
    """
    groups: list[list[int]] = [[] for _ in range(planes * SLOTS.value)]
    for slot, term in enumerate(terms):
        for group, plane in enumerate(term.planes):
            groups[plane * SLOTS.value + slot].append(group)
    numbers = [term.numbers() for term in terms] + [(0, 0, 0)] * (SLOTS.value - len(terms))
    first = ENTRIES.value + len(groups) + 1
    begins = list(itertools.accumulate((len(entries) for entries in groups), initial=first))
    table = [*itertools.chain(*numbers), *begins, *itertools.chain(*groups)]
    return gpu.table(table, torch.int64, device), sorted({plane for term in terms for plane in term.planes})


def _slots(terms: Sequence[_Term], unused: torch.Tensor, activation: str) -> dict[str, Any]:
    """The tensors, options and kinds of four slots as arguments of the kernels."""
    arguments: dict[str, Any] = {}
    for slot in range(SLOTS.value):
        tensors = terms[slot].tensors if slot < len(terms) else [unused] * 3
        names = (f"first{slot}", f"second{slot}", f"extra{slot}")
        arguments.update(zip(names, tensors, strict=True))
    options = [option for term in terms for option in term.options]
    kinds = [term.kind for term in terms] + [NOTHING.value] * (SLOTS.value - len(terms))
    arguments["options"] = gpu.table(options, torch.float64, unused.device)
    return {**arguments, "KINDS": tuple(kinds), "SIGMOID": activation == "sigmoid"}


@triton.jit
def target_starts_kernel(targets, starts, counters, words, row_words, mask_words, tiles, TILE: tl.constexpr):
    """Target voxels of each group before each tile, (groups, tiles)."""
    group = tl.program_id(1)
    tile = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    word = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
    row = word // row_words
    index = row * ((row_words + 1) // 2 * 2) + word - row * row_words
    held = tl.load(targets + group.to(tl.int64) * mask_words + index, mask=word < words, other=0)
    starts += group.to(tl.int64) * tiles
    tl.store(starts + tile, tl.sum(count_bits(held), axis=1).to(tl.float64), mask=tile < tiles)
    if is_last(counters + group, tl.num_programs(0)):
        before = tl.zeros((1,), tl.float64)
        for start in range(0, tiles, 1024):
            tile = start + tl.arange(0, 1024)
            counts = tl.load(starts + tile, mask=tile < tiles, other=0, cache_modifier=".cg")
            tl.store(starts + tile, before + tl.cumsum(counts, 0) - counts, mask=tile < tiles)
            before += tl.sum(counts, keep_dims=True)


@triton.jit
def loss_sums_fwd_kernel(
    logits, partials, sums, state, counters, table, active, options,
    first0, second0, extra0, first1, second1, extra1, first2, second2, extra2, first3, second3, extra3,
    channels, words, row_words, mask_words, voxels, width,
    KINDS: tl.constexpr, SIGMOID: tl.constexpr,
    TILE: tl.constexpr, VECTOR: tl.constexpr, ALIGNED: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Sums of the groups of each active plane of logits; rows of `first` and `second` are the masks of a slot."""
    tile, tiles = tl.program_id(0), tl.num_programs(0)
    plane = tl.load(active + tl.program_id(1))
    x = logits + plane_start(plane, voxels, ALIGNED)
    index, row, place, exists = tile_words(tile, words, row_words, TILE, DENSE)
    offsets, inside = tile_voxels(row, place, exists, width, ALIGNED, DENSE)
    firsts, seconds = (first0, first1, first2, first3), (second0, second1, second2, second3)
    extras = (extra0, extra1, extra2, extra3)
    begins = table + ENTRIES + plane * SLOTS
    for slot in tl.static_range(SLOTS):
        if KINDS[slot] != NOTHING:
            output, starts, count = (
                tl.load(table + 3 * slot),
                tl.load(table + 3 * slot + 1),
                tl.load(table + 3 * slot + 2),
            )
            for entry in range(tl.load(begins + slot), tl.load(begins + slot + 1)):
                group = tl.load(table + entry)
                out = partials + (output + group * SIZES[KINDS[slot]]) * tiles + tile
                first = load_words(firsts[slot], group, mask_words, index, exists)
                if KINDS[slot] == REGIONS:
                    region_partials(x, offsets, inside, first, out, tiles, SIGMOID, VECTOR)
                else:
                    second = load_words(seconds[slot], group, mask_words, index, exists)
                    if KINDS[slot] == ATTENUATION:
                        ct = extras[slot] + plane_start(plane // channels, voxels, ALIGNED)
                        attenuation_partials(
                            x, offsets, inside, ct, first, second, options + 3 * slot, out, tiles, SIGMOID, VECTOR
                        )
                    else:
                        bce_dice_partials(
                            x, offsets, inside, first, second,
                            extras[slot] + group * count, count, state + starts + group * tiles + tile, out, tiles,
                            KINDS[slot] == WEIGHTED_BCE_DICE, SIGMOID, VECTOR,
                        )  # fmt: skip
    if is_last(counters + tl.program_id(1), tiles):
        for slot in tl.static_range(SLOTS):
            if KINDS[slot] != NOTHING:
                output = tl.load(table + 3 * slot)
                for entry in range(tl.load(begins + slot), tl.load(begins + slot + 1)):
                    at = output + tl.load(table + entry) * SIZES[KINDS[slot]]
                    if KINDS[slot] == ATTENUATION:
                        eps = tl.load(options + 3 * slot + 2)
                        add_up_moments(partials + at * tiles, tiles, eps, sums + at, state + at)
                    else:
                        add_up(partials + at * tiles, tiles, sums + at, state + at, SIZES[KINDS[slot]])


@triton.jit
def loss_sums_bwd_kernel(
    grad, logits, out, state, table, options,
    first0, second0, extra0, first1, second1, extra1, first2, second2, extra2, first3, second3, extra3,
    channels, words, row_words, mask_words, voxels, width,
    KINDS: tl.constexpr, SIGMOID: tl.constexpr, ADD: tl.constexpr,
    TILE: tl.constexpr, VECTOR: tl.constexpr, ALIGNED: tl.constexpr, DENSE: tl.constexpr,
):  # fmt: skip
    """Gradient of every plane of logits, and what `out` holds already if ADD."""
    tile, tiles = tl.program_id(0), tl.num_programs(0)
    plane = tl.program_id(1).to(tl.int64)
    x = logits + plane_start(plane, voxels, ALIGNED)
    index, row, place, exists = tile_words(tile, words, row_words, TILE, DENSE)
    offsets, inside = tile_voxels(row, place, exists, width, ALIGNED, DENSE)
    out += plane_start(plane, voxels, ALIGNED)
    firsts, seconds = (first0, first1, first2, first3), (second0, second1, second2, second3)
    extras = (extra0, extra1, extra2, extra3)
    begins = table + ENTRIES + plane * SLOTS
    slopes = tl.zeros((TILE, LANES), tl.float32)
    for slot in tl.static_range(SLOTS):
        if KINDS[slot] != NOTHING:
            output, starts, count = (
                tl.load(table + 3 * slot),
                tl.load(table + 3 * slot + 1),
                tl.load(table + 3 * slot + 2),
            )
            for entry in range(tl.load(begins + slot), tl.load(begins + slot + 1)):
                group = tl.load(table + entry)
                at = output + group * SIZES[KINDS[slot]]
                first = load_words(firsts[slot], group, mask_words, index, exists)
                if KINDS[slot] == REGIONS:
                    slopes = region_slopes(slopes, x, offsets, inside, first, grad + at, SIGMOID, VECTOR)
                else:
                    second = load_words(seconds[slot], group, mask_words, index, exists)
                    if KINDS[slot] == ATTENUATION:
                        ct = extras[slot] + plane_start(plane // channels, voxels, ALIGNED)
                        slopes = attenuation_slopes(
                            slopes, x, offsets, inside, ct, first, second, options + 3 * slot, state + at, grad + at,
                            SIGMOID, VECTOR,
                        )  # fmt: skip
                    else:
                        slopes = bce_dice_slopes(
                            slopes, x, offsets, inside, first, second,
                            extras[slot] + group * count, count, state + starts + group * tiles + tile, grad + at,
                            KINDS[slot] == WEIGHTED_BCE_DICE, SIGMOID, VECTOR,
                        )  # fmt: skip
    if ADD:
        slopes += tl.load(out + offsets, mask=inside, other=0)
    tl.store(out + offsets, slopes.to(out.dtype.element_ty), mask=inside)
