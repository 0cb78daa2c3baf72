# SPDX-License-Identifier: Apache-2.0
"""Instructions that read and write memory: loads, stores, atomics and matrix loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulation.ptx.decode import (
    LOCAL_WINDOW,
    SHARED_WINDOW,
    Decoder,
    Operation,
    Read,
    Unknown,
    builds,
    members,
)
from tests.emulation.ptx.memory import Fault
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES, bits_of, unsigned

_SPACES = ("param", "global", "const", "shared", "local")


def _space(instruction: Instruction) -> str:
    """The state space that an instruction names, or "generic"."""
    named = (modifier.split("::")[0] for modifier in instruction.modifiers)
    return next((space for space in named if space in _SPACES), "generic")


def _count(instruction: Instruction) -> int:
    return next((int(m[1:]) for m in instruction.modifiers if m in ("v2", "v4", "v8")), 1)


def _place(m: Any, space: str, where: Any) -> tuple[str, Any]:
    """The space and the address in it of generic addresses."""
    if space != "generic":
        return "global" if space == "const" else space, where
    for window, name in ((LOCAL_WINDOW, "local"), (SHARED_WINDOW, "shared")):
        inside = where >= np.uint64(window)
        if inside.all():
            return name, where - np.uint64(window)
        if inside.any():
            raise Unknown("generic addresses of several memories in one access")
    return "global", where


class _Access:
    """Where an instruction goes in memory, for the lanes that execute it."""

    def __init__(self, instruction: Instruction, operand: str, width: int, decoder: Decoder, kind: str) -> None:
        self._space = _space(instruction)
        if self._space == "param":
            self._space = "local"  # what calls pass; a kernel's own parameters are read elsewhere
        self._address: Read = decoder.address(operand)
        self._width, self._at = width, decoder.at
        strong = {"volatile", "relaxed", "acquire", "release"} & set(instruction.modifiers)
        self._kind = f"strong {kind}" if strong and kind != "atomic" else kind

    def find(self, m: Any, mask: Any, values: Any = None) -> tuple[np.ndarray, Any, Any]:
        """The elements of memory, the index of each lane's own, and the lanes (None: all).

        values: what will be written there.
        """
        lanes = None if mask is None else np.flatnonzero(mask)
        where = self._address(m) if lanes is None else self._address(m)[lanes]
        space, where = _place(m, self._space, where)
        try:
            cells, index = m.memories[space].find(where, lanes, self._width)
            if m.watch is not None and space != "local":
                same = None if values is None else lambda: cells[index] == values.view(cells.dtype)[:, 0]
                m.watch[space].see(m, self._kind, index * self._width, lanes, self._width, self._at, same)
        except Fault as fault:
            raise Fault(fault.reason, fault.lane if lanes is None else int(lanes[fault.lane])) from None
        return cells, index, lanes


@builds("ld", "ldu")
def _load(instruction: Instruction, decoder: Decoder) -> Operation:
    kind, count = instruction.type, _count(instruction)
    registers = members(instruction.operands[0])
    name, offset = _parameter(instruction.operands[1])
    if _space(instruction) == "param" and name in decoder.parameters:
        return _load_parameter(registers, decoder.parameters[name] + offset, kind, decoder)
    part = unsigned(bits_of(kind))
    access = _Access(instruction, instruction.operands[1], bits_of(kind) // 8 * count, decoder, "read")
    puts = [decoder.scatter(register, kind) for register in registers]
    if len(puts) != count:
        raise Unknown("operands")

    def run(m: Any, mask: Any) -> None:
        cells, index, lanes = access.find(m, mask)
        values = cells[index].view(part).reshape(-1, count)
        for i, put in enumerate(puts):
            put(m, lanes, values[:, i])

    return run


def _parameter(operand: str) -> tuple[str, int]:
    name, _, offset = operand.strip("[] ").partition("+")
    return name.strip(), int(offset or "0", 0)


def _load_parameter(registers: list[str], offset: int, kind: str, decoder: Decoder) -> Operation:
    puts = [decoder.write(register, kind) for register in registers]
    dtype = DTYPES[kind]

    def run(m: Any, mask: Any) -> None:
        for i, put in enumerate(puts):
            put(m, mask, np.frombuffer(m.parameters, dtype, 1, offset + i * dtype().itemsize)[0])

    return run


@builds("st")
def _store(instruction: Instruction, decoder: Decoder) -> Operation:
    kind, count = f"u{bits_of(instruction.type)}", _count(instruction)
    access = _Access(instruction, instruction.operands[0], bits_of(kind) // 8 * count, decoder, "write")
    reads = [decoder.read(register, kind) for register in members(instruction.operands[1])]
    if len(reads) != count:
        raise Unknown("operands")

    def run(m: Any, mask: Any) -> None:
        values = np.stack([np.broadcast_to(read(m), m.lanes) for read in reads], axis=-1)
        if mask is not None:
            values = values[mask]
        cells, index, lanes = access.find(m, mask, values)
        values = values.view(cells.dtype)[:, 0]
        cells[index] = values
        lost = cells[index] != values
        if lost.any():
            lane = int(np.argmax(lost))
            raise Fault(
                "threads write different values to one place at once", lane if lanes is None else int(lanes[lane])
            )

    return run


_UPDATES: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, value: value,
    "inc": lambda old, value: np.where(old >= value, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, value: np.where((old == 0) | (old > value), value, old - old.dtype.type(1)),
}


@builds("atom", "red")
def _atomic(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    name = next((modifier for modifier in instruction.modifiers if modifier in (*_UPDATES, "cas")), None)
    if name is None or _count(instruction) > 1 or kind not in DTYPES or kind == "bf16":
        raise Unknown("atomic")
    operands = list(instruction.operands)
    put = decoder.scatter(operands.pop(0), kind) if instruction.opcode == "atom" else None
    access = _Access(instruction, operands[0], bits_of(kind) // 8, decoder, "atomic")
    reads = [decoder.read(operand, kind) for operand in operands[1:]]
    dtype = DTYPES[kind]

    def run(m: Any, mask: Any) -> None:
        arguments = [np.broadcast_to(read(m), m.lanes) for read in reads]
        order = m.order(m.lanes if mask is None else int(mask.sum()))
        cells, index, lanes = access.find(m, mask)
        if lanes is not None:
            arguments = [argument[lanes] for argument in arguments]
        old = _applied(name, cells.view(dtype), index, arguments, order)
        if put is not None:
            put(m, lanes, old)

    return run


def _applied(name: str, cells: Any, index: Any, arguments: list[Any], order: Any) -> Any:
    """What each lane's atomic found, when one lane after the other does its own."""
    old = np.empty(len(index), cells.dtype)
    rounds = _ranks(index, order)
    for turn in range(int(rounds.max()) + 1 if len(rounds) else 0):
        if turn >= 8:  # many lanes at few places: one after the other
            _one_by_one(name, cells, index, arguments, order[rounds[order] >= turn], old)
            break
        lanes = np.flatnonzero(rounds == turn)
        found = cells[index[lanes]]
        old[lanes] = found
        cells[index[lanes]] = _updated(name, found, [argument[lanes] for argument in arguments])
    return old


def _updated(name: str, old: Any, arguments: list[Any]) -> Any:
    if name == "cas":
        return np.where(old == arguments[0], arguments[1], old)
    return _UPDATES[name](old, arguments[0])


def _ranks(index: Any, order: Any) -> Any:
    """For each lane, how many lanes before it in `order` go to the same place."""
    by_place = order[np.argsort(index[order], kind="stable")]
    places = index[by_place]
    first = np.r_[True, places[1:] != places[:-1]] if len(places) else np.zeros(0, bool)
    begin = np.maximum.accumulate(np.where(first, np.arange(len(places)), 0))
    ranks = np.empty(len(index), np.int64)
    ranks[by_place] = np.arange(len(places)) - begin
    return ranks


def _one_by_one(name: str, cells: Any, index: Any, arguments: list[Any], order: Any, old: Any) -> None:
    for lane in order:
        place = index[lane]
        found = cells[place]
        old[lane] = found
        cells[place] = _updated(name, found, [argument[lane] for argument in arguments])


@builds("ldmatrix", "stmatrix")
def _matrices(instruction: Instruction, decoder: Decoder) -> Operation:
    """Matrices of 8 x 8 halves: lane 4 i + j has columns 2 j and 2 j + 1 of row i of each."""
    count = next(int(modifier[1:]) for modifier in instruction.modifiers if modifier in ("x1", "x2", "x4"))
    if "m8n8" not in instruction.modifiers or instruction.type != "b16":
        raise Unknown("shape")
    transposed, loads = "trans" in instruction.modifiers, instruction.opcode == "ldmatrix"
    registers, address = instruction.operands if loads else reversed(instruction.operands)
    puts = [decoder.write(register, "u32") for register in members(registers)]
    reads = [decoder.read(register, "u32") for register in members(registers)]
    access = _Access(instruction, address, 16, decoder, "read" if loads else "write")

    def turned(matrices: Any) -> Any:
        return np.ascontiguousarray(matrices.swapaxes(2, 3) if transposed else matrices)

    def run(m: Any, mask: Any) -> None:
        m.whole_warps(mask, instruction.opcode)
        # lanes 8 i to 8 i + 7 of a warp say where the rows of its matrix i are
        says = m.lane < 8 * count if mask is None else mask & (m.lane < 8 * count)
        lanes = np.arange(m.lanes) if mask is None else np.flatnonzero(mask)
        if loads:
            cells, index, _ = access.find(m, says)
            pairs = turned(cells[index].view(np.uint16).reshape(-1, count, 8, 8)).view(np.uint32)
            value = np.zeros(m.lanes, np.uint32)
            for i, put in enumerate(puts):
                value[lanes] = pairs[:, i].ravel()
                put(m, mask, value)
        else:
            pairs = np.stack([read(m)[lanes].reshape(-1, 32) for read in reads], axis=1)
            matrices = turned(pairs.view(np.uint16).reshape(-1, count, 8, 8)).reshape(-1, 8)
            cells, index, _ = access.find(m, says, matrices)
            cells[index] = matrices.view(cells.dtype)[:, 0]

    return run


@builds("cp")
def _copy(instruction: Instruction, decoder: Decoder) -> Operation:
    """cp.async, done at once: waiting for it is then nothing."""
    if instruction.modifiers[0] != "async" or "bulk" in instruction.modifiers:
        raise Unknown("copy")
    if instruction.modifiers[1] in ("commit_group", "wait_group", "wait_all"):
        return lambda m, mask: None
    to, source, size, *rest = instruction.operands
    width = int(size, 0)
    address, target = decoder.address(source), decoder.address(to)
    given = decoder.read(rest[0], "u32") if rest else None

    def run(m: Any, mask: Any) -> None:
        lanes = np.arange(m.lanes) if mask is None else np.flatnonzero(mask)
        kept = np.full(len(lanes), width) if given is None else np.broadcast_to(given(m), m.lanes)[lanes]
        data = np.zeros((len(lanes), width), np.uint8)
        whole = kept == width
        if not (whole | (kept == 0)).all():
            raise Unknown("part of a copy")
        if whole.any():
            cells, index = m.memories["global"].find(address(m)[lanes[whole]], lanes[whole], width)
            data[whole] = cells[index].view(np.uint8).reshape(-1, width)
        cells, index = m.memories["shared"].find(target(m)[lanes], lanes, width)
        cells[index] = data.view(cells.dtype)[:, 0]

    return run


@builds("prefetch", "prefetchu", "discard", "applypriority", "createpolicy")
def _hint(instruction: Instruction, decoder: Decoder) -> Operation:
    if instruction.opcode == "createpolicy":
        put = decoder.write(instruction.operands[0], "u64")
        return lambda m, mask: put(m, mask, np.uint64(0))
    return lambda m, mask: None
