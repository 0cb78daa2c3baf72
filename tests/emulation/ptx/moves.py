# SPDX-License-Identifier: Apache-2.0
"""Instructions that move a lane's own values: selections, conversions, moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulation.ptx import values
from tests.emulation.ptx.decode import (
    LOCAL_WINDOW,
    SHARED_WINDOW,
    Decoder,
    Operation,
    Unknown,
    builds,
    elementwise,
    members,
)
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES, PACKED, ROUNDINGS, bits_of, is_float


@builds("selp")
def _selp(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    return elementwise(instruction, decoder, [kind, kind, "pred"], kind, lambda a, b, c: np.where(c, a, b))


@builds("slct")
def _slct(instruction: Instruction, decoder: Decoder) -> Operation:
    kind, sign = instruction.modifiers[-2:]
    return elementwise(instruction, decoder, [kind, kind, sign], kind, lambda a, b, c: np.where(c >= 0, a, b))


@builds("cvt")
def _cvt(instruction: Instruction, decoder: Decoder) -> Operation:
    *modifiers, to, source = instruction.modifiers
    if set(modifiers) - {*ROUNDINGS, "rni", "rzi", "rmi", "rpi", "sat", "ftz"}:
        raise Unknown("modifiers")
    if to in PACKED:
        if source != "f32" or modifiers != ["rn"]:
            raise Unknown("packed conversion")
        put = decoder.write(instruction.operands[0], to)
        high, low = (decoder.read(operand, source) for operand in instruction.operands[1:])
        return lambda m, mask: put(m, mask, np.stack(np.broadcast_arrays(low(m), high(m)), axis=-1))
    round_ = next((mode for mode in modifiers if mode.endswith("i")), "")
    mode = next((mode for mode in modifiers if mode in ROUNDINGS), "rn")
    function = _conversion(to, source, mode, round_, "sat" in modifiers)
    if "ftz" in modifiers and "f32" in (to, source):
        plain = function
        before = values.flushed if source == "f32" else lambda value: value
        after = values.flushed if to == "f32" else lambda value: value
        function = lambda value: after(plain(before(value)))  # noqa: E731
    return elementwise(instruction, decoder, [source], to, function)


def _conversion(to: str, source: str, mode: str, round_: str, saturate: bool) -> Callable[[Any], Any]:
    dtype = DTYPES[to]
    if is_float(source) and not is_float(to):
        return lambda value: values.to_integer(value, to, round_)
    if not is_float(source) and not is_float(to):
        limits = np.iinfo(dtype)
        if not saturate:
            return lambda value: np.asarray(value).astype(dtype)
        return lambda value: _clipped(value, limits).astype(dtype)
    if not is_float(source):
        if mode == "rn":
            return lambda value: np.asarray(value).astype(dtype)
        if to != "f32" or bits_of(source) > 32:
            raise Unknown("rounding of an integer")
        return lambda value: values.narrowed(np.asarray(value, np.float64), np.float64(0), mode)
    integral = {"": None, "rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[round_]

    def run(value: Any) -> Any:
        value = np.asarray(value)
        if integral is not None:
            value = integral(value)
        if saturate:
            value = np.fmin(np.fmax(value, 0), 1)
        if to in ("f32", "bf16") and source == "f64":
            return values.narrowed(value, np.float64(0), mode)
        return value.astype(dtype)

    if mode != "rn" and not (to == "f32" and source == "f64"):
        raise Unknown("rounding")
    return run


def _clipped(value: Any, limits: Any) -> Any:
    value = np.asarray(value)
    own = np.iinfo(value.dtype)
    return np.clip(value, max(own.min, limits.min), min(own.max, limits.max))


@builds("mov")
def _mov(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    to, source = instruction.operands
    if to.startswith("{"):
        return _unpack(members(to), source, kind, decoder)
    if source.startswith("{"):
        return _pack(to, members(source), kind, decoder)
    return elementwise(instruction, decoder, [kind], kind, lambda value: value)


def _unpack(registers: list[str], source: str, kind: str, decoder: Decoder) -> Operation:
    part = bits_of(kind) // len(registers)
    whole, dtype = values.unsigned(bits_of(kind)), values.unsigned(part)
    read = decoder.read(source, f"u{bits_of(kind)}")
    puts = [decoder.write(register, f"u{part}") for register in registers]

    def run(m: Any, mask: Any) -> None:
        value = np.array(read(m))
        for i, put in enumerate(puts):
            put(m, mask, (value >> whole(part * i)).astype(dtype))

    return run


def _pack(register: str, sources: list[str], kind: str, decoder: Decoder) -> Operation:
    part = bits_of(kind) // len(sources)
    whole = values.unsigned(bits_of(kind))
    put = decoder.write(register, f"u{bits_of(kind)}")
    reads = [decoder.read(source, f"u{part}") for source in sources]

    def run(m: Any, mask: Any) -> None:
        value = whole(0)
        for i, read in enumerate(reads):
            value = value | np.asarray(read(m)).astype(whole) << whole(part * i)
        put(m, mask, value)

    return run


@builds("cvta")
def _cvta(instruction: Instruction, decoder: Decoder) -> Operation:
    space = next(m.split("::")[0] for m in instruction.modifiers if m.split("::")[0] in _WINDOWS)
    kind = instruction.type
    offset = DTYPES[kind](_WINDOWS[space])
    function = np.subtract if "to" in instruction.modifiers else np.add
    return elementwise(instruction, decoder, [kind], kind, lambda value: function(value, offset))


_WINDOWS = {"global": 0, "const": 0, "param": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
