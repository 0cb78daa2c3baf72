# SPDX-License-Identifier: Apache-2.0
"""Turns instructions into Python functions of (machine, mask), once for each program.

A mask says which lanes execute; None stands for all of them. Where an instruction is not known, decoding says which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.emulation.ptx.parser import Instruction, Program, split
from tests.emulation.ptx.values import DTYPES, PACKED, bf16_to_float, bits_of, float_to_bf16, is_float, unsigned

Read = Callable[[Any], Any]
Write = Callable[[Any, Any, Any], None]
Operation = Callable[[Any, Any], None]
Builder = Callable[[Instruction, "Decoder"], Operation]

_builders: dict[str, Builder] = {}

# Where the shared and the local memory of a thread lie among generic addresses.
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61


def builds(*opcodes: str) -> Callable[[Builder], Builder]:
    """Register what decodes these opcodes."""

    def register(builder: Builder) -> Builder:
        _builders.update(dict.fromkeys(opcodes, builder))
        return builder

    return register


class Unknown(NotImplementedError):
    """An instruction, or a form of one, that this interpreter does not know."""


def decode(program: Program) -> tuple[list[Operation], Decoder]:
    """A function for each instruction, and where registers and symbols are."""
    decoder = Decoder(program)
    operations = []
    for at, instruction in enumerate(program.instructions):
        decoder.at = at
        try:
            operation = _builders[instruction.opcode](instruction, decoder)
        except (KeyError, Unknown, NotImplementedError) as error:
            raise Unknown(f"{program.name}: `{instruction.text}`: {error!r}") from error
        operations.append(decoder.guarded(instruction, operation))
    return operations, decoder


class Decoder:
    """Reads and writes the operands of one program's instructions."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.at = 0
        """The index of the instruction that is decoded."""
        self.counts = {1: 0, 8: 0, 16: 0, 32: 0, 64: 0}
        """How many registers there are of each size in bits."""
        self._rows: dict[str, tuple[int, int]] = {}
        self.shared, self.shared_bytes = _laid_out(program)
        self.constants = {array.name: np.frombuffer(bytearray(array.values), np.uint8) for array in program.constants}
        self._symbols = {
            **self.shared,
            **program.local,
            **{name: array.ctypes.data for name, array in self.constants.items()},
        }
        self.parameters: dict[str, int] = {}
        size = 0
        for name, width in program.parameters:
            size = -(-size // width) * width
            self.parameters[name] = size
            size += width
        self.parameter_bytes = size

    def _row(self, register: str) -> tuple[int, int]:
        """A register's size in bits and its row among those of this size."""
        if register not in self._rows:
            bits = bits_of(self.program.registers[register])
            if bits not in self.counts:
                raise Unknown(f"registers of {bits} bits")
            self._rows[register] = (bits, self.counts[bits])
            self.counts[bits] += 1
        return self._rows[register]

    def read(self, operand: str, kind: str) -> Read:
        """What gives an operand's value as a type: an array over the lanes, or a scalar."""
        if operand.startswith("!"):
            positive = self.read(operand[1:], "pred")
            return lambda m: ~positive(m)
        if operand in self.program.registers:
            return self._read_register(operand, kind)
        if operand.startswith("%"):
            dtype = DTYPES[kind]
            return lambda m: m.special(operand).astype(dtype)
        value = self._immediate(operand, kind)
        return lambda m: value

    def _read_register(self, register: str, kind: str) -> Read:
        bits, row = self._row(register)
        if kind in PACKED:
            element, _ = PACKED[kind]
            raw = unsigned(bits_of(element))
            convert = bf16_to_float if element == "bf16" else lambda raw: raw.view(DTYPES[element])
            return lambda m: convert(m.rows[bits][row].view(raw).reshape(-1, 2))
        if kind == "bf16":
            return lambda m: bf16_to_float(m.rows[bits][row].astype(np.uint16))
        if bits_of(kind) == bits:
            return lambda m: m.views[kind][row]
        narrow, dtype = unsigned(bits_of(kind)), DTYPES[kind]
        if bits_of(kind) > bits:
            raise Unknown(f"{register} has {bits} bits")
        return lambda m: m.rows[bits][row].astype(narrow).view(dtype)

    def _immediate(self, operand: str, kind: str) -> Any:
        if operand in self._symbols:
            return DTYPES[kind](self._symbols[operand])
        if operand == "WARP_SZ":
            return DTYPES[kind](32)
        if kind in PACKED:
            raw = np.array([self._immediate(operand, f"u{PACKED[kind][1]}")])
            element = PACKED[kind][0]
            pair = raw.view(unsigned(bits_of(element))).reshape(1, 2)
            return bf16_to_float(pair) if element == "bf16" else pair.view(DTYPES[element])
        exact = re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", operand)
        if exact:
            size, dtype = (np.uint32, np.float32) if exact[1] in "fF" else (np.uint64, np.float64)
            value: Any = np.array(int(exact[2], 16), size).view(dtype)[()]
            return value if is_float(kind) else DTYPES[kind](value.view(size))
        if is_float(kind) and re.fullmatch(r"-?\d+\.\d*(?:[eE][-+]?\d+)?", operand):
            return DTYPES[kind](float(operand))
        if not re.fullmatch(r"-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?", operand):
            raise Unknown(f"operand {operand!r}")
        number = int(operand.rstrip("U"), 0)
        if kind == "pred":
            return np.bool_(number)
        bits = bits_of(kind)
        raw = np.array(number % (1 << bits), unsigned(bits))
        return bf16_to_float(raw)[()] if kind == "bf16" else raw.view(DTYPES[kind])[()]

    def write(self, operand: str, kind: str) -> Write:
        """What puts an array over the lanes, or a scalar, into a register; a wider one is extended."""
        if operand == "_":
            return lambda m, mask, value: None
        bits, row = self._row(operand)
        if kind in PACKED:
            return self._write_packed(bits, row, kind)
        if kind == "bf16":
            put = self.write(operand, f"u{bits}")
            dtype = unsigned(bits)
            return lambda m, mask, value: put(m, mask, float_to_bf16(value).astype(dtype))
        view = kind
        if bits_of(kind) != bits:
            if bits_of(kind) > bits:
                raise Unknown(f"{operand} has {bits} bits")
            view = f"{'s' if kind[0] == 's' else 'u'}{bits}"
            raw, dtype = unsigned(bits_of(kind)), DTYPES[view]
            if kind[0] == "f":
                return lambda m, mask, value: _put(m.views[view][row], mask, np.asarray(value).view(raw).astype(dtype))
            return lambda m, mask, value: _put(m.views[view][row], mask, np.asarray(value).astype(dtype))
        return lambda m, mask, value: _put(m.views[view][row], mask, value)

    def _write_packed(self, bits: int, row: int, kind: str) -> Write:
        element, _ = PACKED[kind]
        raw = unsigned(bits)

        def put(m: Any, mask: Any, value: Any) -> None:
            pairs = float_to_bf16(value) if element == "bf16" else np.asarray(value, DTYPES[element])
            pairs = np.ascontiguousarray(np.broadcast_to(pairs, (m.lanes, 2)))
            _put(m.rows[bits][row], mask, pairs.view(raw)[:, 0])

        return put

    def scatter(self, operand: str, kind: str) -> Write:
        """What puts one value for each of some lanes (an index array, None: all) into a register."""
        if operand == "_":
            return lambda m, lanes, value: None
        bits, row = self._row(operand)
        view = f"{'s' if kind[0] == 's' else 'u'}{bits}"
        raw = DTYPES[f"{'s' if kind[0] == 's' else 'u'}{bits_of(kind)}"]
        dtype = DTYPES[view]

        def put(m: Any, lanes: Any, value: Any) -> None:
            m.views[view][row][... if lanes is None else lanes] = value.view(raw).astype(dtype)

        return put

    def address(self, operand: str) -> Read:
        """What gives the addresses, as uint64, of an operand in brackets."""
        found = re.fullmatch(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\d+|-?0x[0-9a-fA-F]+))?\s*\]", operand)
        if found is None:
            raise Unknown(f"address {operand!r}")
        offset = np.uint64(int(found[2] or "0", 0) % (1 << 64))
        if found[1] in self.program.registers and self._row(found[1])[0] == 32:
            base = self.read(found[1], "u32")
            return lambda m: base(m).astype(np.uint64) + offset
        base = self.read(found[1], "u64")
        if found[1] in self.program.registers:
            return lambda m: base(m) + offset
        return lambda m: np.full(m.lanes, base(m) + offset)

    def guarded(self, instruction: Instruction, operation: Operation) -> Operation:
        """An operation by those lanes alone whose guard holds."""
        if instruction.guard is None or instruction.opcode in ("bra", "brx"):
            return operation
        negated = instruction.negated
        guard = self.read(instruction.guard, "pred")

        def run(m: Any, mask: Any) -> None:
            holds = ~guard(m) if negated else guard(m).copy()
            if mask is not None:
                holds &= mask
            if holds.any():
                operation(m, None if holds.all() else holds)

        return run


def _put(row: Any, mask: Any, value: Any) -> None:
    if mask is None:
        row[...] = value
    else:
        np.copyto(row, value, where=mask)


def _laid_out(program: Program) -> tuple[dict[str, int], int]:
    """Where each shared array begins; the one without a length, which the launch sizes, comes last."""
    places, end = {}, 0
    for array in sorted(program.shared, key=lambda array: array.bytes == 0):
        end = -(-end // array.align) * array.align
        places[array.name] = end
        end += array.bytes
    return places, end


def elementwise(
    instruction: Instruction, decoder: Decoder, sources: Sequence[str], result: str, function: Callable[..., Any]
) -> Operation:
    """An operation on each lane's own registers: the first operand takes the function of the others."""
    put = decoder.write(instruction.operands[0], result)
    reads = [decoder.read(operand, kind) for operand, kind in zip(instruction.operands[1:], sources, strict=True)]
    if len(reads) == 1:
        (a,) = reads
        return lambda m, mask: put(m, mask, function(a(m)))
    if len(reads) == 2:
        a, b = reads
        return lambda m, mask: put(m, mask, function(a(m), b(m)))
    return lambda m, mask: put(m, mask, function(*[read(m) for read in reads]))


def pair(operand: str) -> tuple[str, str]:
    """The registers of `a|b`; the second may be missing."""
    first, _, second = operand.partition("|")
    return first.strip(), second.strip() or "_"


def members(operand: str) -> list[str]:
    """The registers of `{a, b}` or of a single one."""
    return split(operand.strip("{} ")) if operand.startswith("{") else [operand]


def allow(instruction: Instruction, *modifiers: str) -> None:
    """Refuse modifiers of which nobody here knows what they do."""
    others = set(instruction.modifiers[:-1]) - set(modifiers)
    if others:
        raise Unknown(f"modifiers {', '.join(sorted(others))}")
