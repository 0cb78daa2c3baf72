# SPDX-License-Identifier: Apache-2.0
"""Instructions on the bits of a lane's own registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.emulation.ptx import values
from tests.emulation.ptx.decode import Decoder, Operation, Unknown, allow, builds, elementwise
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES, bits_of

_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}


@builds("and", "or", "xor", "not")
def _logic(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    sources = [kind] * (len(instruction.operands) - 1)
    return elementwise(instruction, decoder, sources, kind, _LOGIC[instruction.opcode])


@builds("lop3")
def _lop3(instruction: Instruction, decoder: Decoder) -> Operation:
    table = int(instruction.operands[4], 0)
    shorter = instruction._replace(operands=instruction.operands[:4])

    def run(a: Any, b: Any, c: Any) -> Any:
        result = np.zeros_like(a & b & c)
        for row in range(8):
            if table >> row & 1:
                result = result | ((a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c))
        return result

    return elementwise(shorter, decoder, ["b32"] * 3, "b32", run)


@builds("shl", "shr")
def _shift(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    bits, dtype = bits_of(kind), DTYPES[kind]

    def left(value: Any, count: Any) -> Any:
        return np.where(count < bits, value << np.minimum(count, bits - 1).astype(dtype), dtype(0))

    def right(value: Any, count: Any) -> Any:
        shifted = value >> np.minimum(count, bits - 1).astype(dtype)
        return shifted if kind[0] == "s" else np.where(count < bits, shifted, dtype(0))

    function = left if instruction.opcode == "shl" else right
    return elementwise(instruction, decoder, [kind, "u32"], kind, function)


@builds("shf")
def _funnel(instruction: Instruction, decoder: Decoder) -> Operation:
    direction, how = instruction.modifiers[:2]
    if direction not in "lr" or how not in ("wrap", "clamp"):
        raise Unknown("direction")

    def run(low: Any, high: Any, count: Any) -> Any:
        count = (count & np.uint32(31) if how == "wrap" else np.minimum(count, np.uint32(32))).astype(np.uint64)
        both = np.asarray(high, np.uint64) << np.uint64(32) | np.asarray(low, np.uint64)
        shifted = both << count >> np.uint64(32) if direction == "l" else both >> count
        return shifted.astype(np.uint32)

    return elementwise(instruction, decoder, ["b32", "b32", "u32"], "b32", run)


@builds("bfe")
def _bfe(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    bits = bits_of(kind)

    def run(value: Any, position: Any, length: Any) -> Any:
        position = (position & np.uint32(255)).astype(np.int64)
        length = (length & np.uint32(255)).astype(np.int64)
        raw = np.asarray(value).astype(np.uint64) & np.uint64((1 << bits) - 1)
        field = np.where(position < 64, raw >> np.minimum(position, 63).astype(np.uint64), np.uint64(0))
        kept = np.minimum(length, 63).astype(np.uint64)
        field = np.where(length < 64, field & ((np.uint64(1) << kept) - np.uint64(1)), field)
        if kind[0] == "s":
            last = np.minimum(position + length - 1, bits - 1)
            sign = (raw >> np.maximum(last, 0).astype(np.uint64) & np.uint64(1)) != 0
            from_bit = np.clip(last - position + 1, 0, 63).astype(np.uint64)
            fill = np.where(sign & (length > 0) & (length < bits), ~np.uint64(0) << from_bit, np.uint64(0))
            field = field | fill
        return field.astype(values.unsigned(bits)).view(DTYPES[kind])

    return elementwise(instruction, decoder, [kind, "u32", "u32"], kind, run)


@builds("bfi")
def _bfi(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    bits, dtype = bits_of(kind), DTYPES[kind]

    def run(field: Any, base: Any, position: Any, length: Any) -> Any:
        position = np.minimum(position & np.uint32(255), np.uint32(bits)).astype(np.uint64)
        length = np.minimum(length & np.uint32(255), np.uint32(64)).astype(np.uint64)
        ones = np.where(length > 63, ~np.uint64(0), (np.uint64(1) << np.minimum(length, 63)) - np.uint64(1))
        shift = np.minimum(position, np.uint64(63))
        mask = np.where(position < bits, ones << shift, np.uint64(0))
        field, base = np.asarray(field).astype(np.uint64), np.asarray(base).astype(np.uint64)
        return ((field << shift & mask) | (base & ~mask)).astype(dtype)

    return elementwise(instruction, decoder, [kind, kind, "u32", "u32"], kind, run)


@builds("bfind")
def _bfind(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    bits, shift = bits_of(kind), "shiftamt" in instruction.modifiers

    def run(value: Any) -> Any:
        value = np.where(value < 0, ~value, value) if kind[0] == "s" else value
        zeros = values.leading_zeros(np.asarray(value).view(values.unsigned(bits)), bits)
        found = zeros if shift else np.uint32(bits - 1) - zeros
        return np.where(zeros == bits, np.uint32(0xFFFFFFFF), found)

    return elementwise(instruction, decoder, [kind], "u32", run)


@builds("popc", "clz")
def _count(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    bits = bits_of(kind)
    if instruction.opcode == "popc":
        return elementwise(instruction, decoder, [kind], "u32", lambda a: np.bitwise_count(a).astype(np.uint32))
    return elementwise(instruction, decoder, [kind], "u32", lambda a: values.leading_zeros(a, bits))


@builds("brev")
def _brev(instruction: Instruction, decoder: Decoder) -> Operation:
    return elementwise(instruction, decoder, [instruction.type], instruction.type, values.reversed_bits)


@builds("prmt")
def _prmt(instruction: Instruction, decoder: Decoder) -> Operation:
    allow(instruction)

    def run(a: Any, b: Any, selector: Any) -> Any:
        both = np.asarray(b, np.uint64) << np.uint64(32) | np.asarray(a, np.uint64)
        result = np.zeros_like(both)
        for byte in range(4):
            nibble = (selector >> np.uint32(4 * byte) & np.uint32(15)).astype(np.uint64)
            one = both >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            sign = np.where(one & np.uint64(128) != 0, np.uint64(255), np.uint64(0))
            result = result | np.where(nibble & np.uint64(8) != 0, sign, one) << np.uint64(8 * byte)
        return result.astype(np.uint32)

    return elementwise(instruction, decoder, ["b32"] * 3, "b32", run)
