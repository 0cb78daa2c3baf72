# SPDX-License-Identifier: Apache-2.0
"""Instructions that lanes execute together: shuffles, votes, matches, reductions, barriers; and where control flows."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulation.ptx.decode import Decoder, Operation, Unknown, builds, pair
from tests.emulation.ptx.memory import Fault
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES

WARP = 32


def _per_warp(m: Any, mask: Any, values: Any, fill: Any) -> Any:
    """(warps, 32), with `fill` for the lanes that do not execute."""
    values = np.broadcast_to(values, m.lanes)
    return (values if mask is None else np.where(mask, values, fill)).reshape(-1, WARP)


def _met(m: Any, mask: Any, members_of_lane: Any, at: int) -> tuple[bool, Any]:
    """Whether any lanes of those in `mask` have met all the lanes that they name, and which these are.

    The others wait here, and leave the machine's mask.
    """
    everyone = np.uint32(0xFFFFFFFF)
    if mask is None and np.ndim(members_of_lane) == 0 and members_of_lane == everyone:
        return True, None
    mask = np.ones(m.lanes, bool) if mask is None else mask
    named = np.broadcast_to(members_of_lane, m.lanes)
    lane_bit = np.uint32(1) << m.lane
    if (mask & (named & lane_bit == 0)).any():
        raise Fault(
            "a lane executes it that its own member mask does not name", int(np.argmax(mask & (named & lane_bit == 0)))
        )
    missing = named & ~m.as_bits(mask)
    if not (missing[mask]).any():
        return True, None if mask.all() else mask
    gone = mask & (missing & m.as_bits(m.exited) != 0)
    if gone.any():
        raise Fault("its member mask names a lane that has ended", int(np.argmax(gone)))
    ready = mask & (missing == 0)
    m.wait_for_lanes(mask & ~ready, at)
    return bool(ready.any()), ready


def _together(instruction: Instruction, decoder: Decoder, member_operand: str, run: Operation) -> Operation:
    if "sync" not in instruction.modifiers:
        raise Unknown("without .sync")
    named, at = decoder.read(member_operand, "u32"), decoder.at

    def met(m: Any, mask: Any) -> None:
        any_ready, ready = _met(m, mask, named(m), at)
        if any_ready:
            m.lanes_met(ready)
            run(m, ready)

    return met


@builds("shfl")
def _shuffle(instruction: Instruction, decoder: Decoder) -> Operation:
    mode = next(modifier for modifier in instruction.modifiers if modifier in ("up", "down", "bfly", "idx"))
    to, inside = pair(instruction.operands[0])
    put, put_inside = decoder.write(to, "b32"), decoder.write(inside, "pred")
    source, distance, clamp = (decoder.read(operand, "u32") for operand in instruction.operands[1:4])

    def run(m: Any, mask: Any) -> None:
        key = distance(m), clamp(m)
        if np.ndim(key[0]) or np.ndim(key[1]):
            lanes, valid = _sources(m, mode, *key)
        else:
            if (mode, key) not in m.shuffles:
                m.shuffles[mode, key] = _sources(m, mode, *key)
            lanes, valid = m.shuffles[mode, key]
        if mask is not None and not mask[lanes[mask]].all():
            raise Fault("it reads a lane that does not execute it", int(np.argmax(mask & ~mask[lanes])))
        value = np.broadcast_to(source(m), m.lanes)
        put(m, mask, value[lanes])
        put_inside(m, mask, valid)

    return _together(instruction, decoder, instruction.operands[4], run)


def _sources(m: Any, mode: str, distance: Any, clamp: Any) -> tuple[Any, Any]:
    """For each lane, the lane it reads, and whether that is inside its segment; outside, it reads itself."""
    lane = m.lane.astype(np.int64)
    distance = np.asarray(distance).astype(np.int64) & 31
    clamp = np.asarray(clamp).astype(np.int64)
    segment, last = clamp >> 8 & 31, clamp & 31
    first = lane & segment
    bound = first | (last & ~segment)
    wanted = {
        "up": lane - distance,
        "down": lane + distance,
        "bfly": lane ^ distance,
        "idx": first | (distance & ~segment),
    }[mode]
    valid = wanted >= bound if mode == "up" else wanted <= bound
    return np.arange(m.lanes) - lane + np.where(valid, wanted, lane), valid


@builds("vote")
def _vote(instruction: Instruction, decoder: Decoder) -> Operation:
    mode, kind = instruction.modifiers[1], instruction.type
    put = decoder.write(instruction.operands[0], kind)
    holds = decoder.read(instruction.operands[1], "pred")
    named = decoder.read(instruction.operands[2], "u32")

    def run(m: Any, mask: Any) -> None:
        value = np.broadcast_to(holds(m), m.lanes)
        yes = m.as_bits(value if mask is None else value & mask) & named(m)
        everyone = np.broadcast_to(named(m), m.lanes)
        result = {
            "ballot": lambda: yes,
            "any": lambda: yes != 0,
            "all": lambda: yes == everyone,
            "uni": lambda: (yes == everyone) | (yes == 0),
        }[mode]()
        put(m, mask, result)

    return _together(instruction, decoder, instruction.operands[2], run)


@builds("match")
def _match(instruction: Instruction, decoder: Decoder) -> Operation:
    mode, kind = instruction.modifiers[0], instruction.type
    to, agree = pair(instruction.operands[0])
    put, put_agree = decoder.write(to, "b32"), decoder.write(agree, "pred")
    source = decoder.read(instruction.operands[1], kind)
    named = decoder.read(instruction.operands[2], "u32")

    def run(m: Any, mask: Any) -> None:
        value = _per_warp(m, None, source(m), 0)
        executes = _per_warp(m, mask, True, False)
        same = (value[:, :, None] == value[:, None, :]) & executes[:, None, :]
        bits = (same * (np.uint32(1) << np.arange(WARP, dtype=np.uint32))).sum(2, dtype=np.uint32).ravel() & named(m)
        if mode == "any":
            put(m, mask, bits)
        else:
            whole = bits == named(m)
            put(m, mask, np.where(whole, bits, np.uint32(0)))
            put_agree(m, mask, whole)

    return _together(instruction, decoder, instruction.operands[2], run)


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@builds("redux")
def _redux(instruction: Instruction, decoder: Decoder) -> Operation:
    name, kind = instruction.modifiers[1], instruction.type
    if kind == "f32" or len(instruction.modifiers) > 3:
        raise Unknown("floats")
    put = decoder.write(instruction.operands[0], kind)
    source = decoder.read(instruction.operands[1], kind)
    limits = np.iinfo(DTYPES[kind])
    neutral = {"min": limits.max, "max": limits.min, "and": -1 if limits.min else limits.max}.get(name, 0)
    named = decoder.read(instruction.operands[2], "u32")

    def run(m: Any, mask: Any) -> None:
        sets = named(m) if mask is None else np.broadcast_to(named(m), m.lanes)[mask]
        if np.ndim(sets) and (sets != sets[0]).any():
            raise Unknown("several member masks at once")
        values = _per_warp(m, mask, source(m), DTYPES[kind](neutral))
        whole = _REDUCTIONS[name].reduce(values, axis=1, dtype=DTYPES[kind])
        put(m, mask, np.repeat(whole, WARP))

    return _together(instruction, decoder, instruction.operands[2], run)


@builds("activemask")
def _active(instruction: Instruction, decoder: Decoder) -> Operation:
    put = decoder.write(instruction.operands[0], "b32")
    return lambda m, mask: put(m, mask, m.as_bits(np.ones(m.lanes, bool) if mask is None else mask))


@builds("elect")
def _elect(instruction: Instruction, decoder: Decoder) -> Operation:
    to, elected = pair(instruction.operands[0])
    put, put_elected = decoder.write(to, "b32"), decoder.write(elected, "pred")
    named = decoder.read(instruction.operands[1], "u32")

    def run(m: Any, mask: Any) -> None:
        sets = np.broadcast_to(named(m), m.lanes)
        lowest = sets & (~sets + np.uint32(1))
        put(m, mask, np.bitwise_count(lowest - np.uint32(1)).astype(np.uint32))
        put_elected(m, mask, lowest == np.uint32(1) << m.lane)

    return _together(instruction, decoder, instruction.operands[1], run)


@builds("bar", "barrier")
def _barrier(instruction: Instruction, decoder: Decoder) -> Operation:
    modifiers = [modifier for modifier in instruction.modifiers if modifier not in ("cta", "aligned")]
    if modifiers[:2] == ["warp", "sync"]:
        return _together(instruction, decoder, instruction.operands[0], lambda m, mask: m.warps_synchronised(mask))
    if modifiers not in (["sync"], ["sync", "all"]):
        raise Unknown("barrier")
    number = decoder.read(instruction.operands[0], "u32")
    count = decoder.read(instruction.operands[1], "u32") if len(instruction.operands) > 1 else None
    at = decoder.at

    def run(m: Any, mask: Any) -> None:
        if mask is not None:
            # a warp arrives as a whole
            living = m.as_bits(~m.exited)
            _, mask = _met_living(m, mask, living, at)
            if mask is not None and not mask.any():
                return
        m.arrive(mask, number(m), count(m) if count else None, at)

    return run


def _met_living(m: Any, mask: Any, living: Any, at: int) -> tuple[bool, Any]:
    missing = living & ~m.as_bits(mask)
    ready = mask & (missing == 0)
    if not ready[mask].all():
        m.wait_for_lanes(mask & ~ready, at)
    return bool(ready.any()), ready


@builds("membar", "fence")
def _fence(instruction: Instruction, decoder: Decoder) -> Operation:
    return lambda m, mask: m.fenced(mask)


@builds("bra")
def _branch(instruction: Instruction, decoder: Decoder) -> Operation:
    target = decoder.program.labels[instruction.operands[0]]
    if instruction.guard is None:
        return lambda m, mask: m.jump(target)
    guard, negated, after = decoder.read(instruction.guard, "pred"), instruction.negated, decoder.at + 1

    def run(m: Any, mask: Any) -> None:
        taken = ~guard(m) if negated else guard(m).copy()
        if mask is not None:
            taken &= mask
        if not taken.any():
            return
        if taken.all() if mask is None else taken.sum() == mask.sum():
            m.jump(target)
        else:
            places = np.where(taken, target, after)
            m.part(places, mask)

    return run


@builds("brx")
def _indexed_branch(instruction: Instruction, decoder: Decoder) -> Operation:
    index = decoder.read(instruction.operands[0], "u32")
    labels = decoder.program.labels
    targets = np.array([labels[label] for label in decoder.program.targets[instruction.operands[1]]])
    if instruction.guard is not None:
        raise Unknown("guard")

    def run(m: Any, mask: Any) -> None:
        chosen = np.broadcast_to(index(m), m.lanes)
        beyond = chosen >= len(targets)
        if (beyond if mask is None else beyond & mask).any():
            raise Fault("an indexed branch beyond its list", int(np.argmax(beyond)))
        m.part(targets[np.where(beyond, 0, chosen)], mask)

    return run


@builds("ret", "exit")
def _end(instruction: Instruction, decoder: Decoder) -> Operation:
    return lambda m, mask: m.end(mask)


@builds("trap")
def _trap(instruction: Instruction, decoder: Decoder) -> Operation:
    def run(m: Any, mask: Any) -> None:
        raise Fault("the kernel gave up", 0 if mask is None else int(np.argmax(mask)))

    return run


@builds("nanosleep", "griddepcontrol", "setmaxnreg")
def _nothing(instruction: Instruction, decoder: Decoder) -> Operation:
    return lambda m, mask: None
