# SPDX-License-Identifier: Apache-2.0
"""Instructions on a lane's own registers: arithmetic, logic, comparisons, conversions and moves."""

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
    pair,
)
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES, PACKED, bits_of, is_float

_ROUNDINGS = ("rn", "rz", "rm", "rp")


def _rounding(instruction: Instruction) -> str:
    return next((mode for mode in instruction.modifiers if mode in _ROUNDINGS), "rn")


def _element(kind: str) -> str:
    return PACKED[kind][0] if kind in PACKED else kind


def _allow(instruction: Instruction, *modifiers: str) -> None:
    """Refuse modifiers of which nobody here knows what they do."""
    others = set(instruction.modifiers[:-1]) - set(modifiers)
    if others:
        raise Unknown(f"modifiers {', '.join(sorted(others))}")


def _finished(instruction: Instruction, function: Callable[..., Any]) -> Callable[..., Any]:
    """With what .ftz and .sat add to a function of floats."""
    kind = instruction.type
    if "ftz" in instruction.modifiers and _element(kind) == "f32":
        inner = function
        function = lambda *arguments: values.flushed(inner(*map(values.flushed, arguments)))  # noqa: E731
    if "sat" in instruction.modifiers:
        if not is_float(kind):
            raise Unknown("saturated integers")
        unlimited = function
        function = lambda *arguments: np.fmin(np.fmax(unlimited(*arguments), 0), 1).astype(DTYPES[_element(kind)])  # noqa: E731
    return function


@builds("add", "sub")
def _sum(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, *_ROUNDINGS, "ftz", "sat")
    kind, mode = instruction.type, _rounding(instruction)
    function: Callable[..., Any] = np.add if instruction.opcode == "add" else np.subtract
    if mode != "rn":
        function = values.arithmetic(instruction.opcode, mode)
    return elementwise(instruction, decoder, [kind, kind], kind, _finished(instruction, function))


def _widened(kind: str) -> str:
    return f"{kind[0]}{2 * bits_of(kind)}"


def _product(kind: str, how: str) -> Callable[[Any, Any], Any]:
    if how == "wide":
        wide = DTYPES[_widened(kind)]
        return lambda a, b: np.multiply(a, b, dtype=wide)
    if how == "hi":
        return lambda a, b: values.high_product(a, b, kind)
    return np.multiply


@builds("mul")
def _mul(instruction: Instruction, decoder: Decoder) -> Operation:
    kind, mode = instruction.type, _rounding(instruction)
    if is_float(kind):
        _allow(instruction, *_ROUNDINGS, "ftz", "sat")
        function = np.multiply if mode == "rn" else values.arithmetic("mul", mode)
        return elementwise(instruction, decoder, [kind, kind], kind, _finished(instruction, function))
    _allow(instruction, "lo", "hi", "wide")
    how = instruction.modifiers[0]
    result = _widened(kind) if how == "wide" else kind
    return elementwise(instruction, decoder, [kind, kind], result, _product(kind, how))


@builds("mad")
def _mad(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    if is_float(kind):
        return _fma(instruction, decoder)
    _allow(instruction, "lo", "hi", "wide")
    how = instruction.modifiers[0]
    result = _widened(kind) if how == "wide" else kind
    product = _product(kind, how)
    return elementwise(instruction, decoder, [kind, kind, result], result, lambda a, b, c: product(a, b) + c)


@builds("fma")
def _fma(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, *_ROUNDINGS, "ftz", "sat")
    kind, mode = instruction.type, _rounding(instruction)
    function = _finished(instruction, lambda a, b, c: values.fma(a, b, c, mode))
    return elementwise(instruction, decoder, [kind] * 3, kind, function)


@builds("div")
def _div(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, "rn", "approx", "full", "ftz")
    kind = instruction.type
    function = _finished(instruction, np.divide) if is_float(kind) else values.divided
    return elementwise(instruction, decoder, [kind, kind], kind, function)


@builds("rem")
def _rem(instruction: Instruction, decoder: Decoder) -> Operation:
    return elementwise(instruction, decoder, [instruction.type] * 2, instruction.type, np.fmod)


@builds("min", "max")
def _extreme(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, "ftz", "NaN")
    kind = instruction.type
    names = ("fmin", "fmax") if is_float(kind) and "NaN" not in instruction.modifiers else ("minimum", "maximum")
    function = getattr(np, names[instruction.opcode == "max"])
    sources = [kind] * (len(instruction.operands) - 1)
    if len(sources) == 3:
        two = function
        function = lambda a, b, c: two(two(a, b), c)  # noqa: E731
    return elementwise(instruction, decoder, sources, kind, _finished(instruction, function))


def _single(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of floats as good as float32 allows."""
    return lambda value: function(np.asarray(value, np.float64)).astype(np.float32)


def _coarse(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of doubles of which the device leaves the lower half zero."""

    def run(value: Any) -> Any:
        raw = np.asarray(function(value)).view(np.uint64)
        return (raw & np.uint64(0xFFFFFFFF00000000)).view(np.float64)

    return run


def _sine(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return _single(lambda value: np.where(np.isfinite(value), function(value), np.nan))


_UNARY: dict[str, Callable[[Any], Any]] = {
    "ex2": _single(np.exp2),
    "lg2": _single(np.log2),
    "rsqrt": _single(lambda value: 1 / np.sqrt(value)),
    "sin": _sine(np.sin),
    "cos": _sine(np.cos),
    "tanh": _single(np.tanh),
}


@builds("ex2", "lg2", "sin", "cos", "tanh", "rsqrt", "rcp", "sqrt")
def _function(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, "approx", "rn", "ftz")
    kind, name = instruction.type, instruction.opcode
    if kind not in ("f32", "f64"):
        raise Unknown(kind)
    if name in ("rcp", "sqrt"):
        function: Callable[[Any], Any] = np.reciprocal if name == "rcp" else np.sqrt
    else:
        function = _UNARY[name]
    if kind == "f64" and "approx" in instruction.modifiers:
        function = _coarse(np.reciprocal if name == "rcp" else lambda value: 1 / np.sqrt(value))
    return elementwise(instruction, decoder, [kind], kind, _finished(instruction, function))


@builds("neg", "abs")
def _sign(instruction: Instruction, decoder: Decoder) -> Operation:
    _allow(instruction, "ftz")
    function = np.negative if instruction.opcode == "neg" else np.abs
    kind = instruction.type
    return elementwise(instruction, decoder, [kind], kind, _finished(instruction, function))


@builds("copysign")
def _copysign(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    return elementwise(instruction, decoder, [kind, kind], kind, lambda sign, size: np.copysign(size, sign))


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
    _allow(instruction)

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


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "lo": np.less,
    "le": np.less_equal,
    "ls": np.less_equal,
    "gt": np.greater,
    "hi": np.greater,
    "ge": np.greater_equal,
    "hs": np.greater_equal,
}


def _unordered(a: Any, b: Any) -> Any:
    return np.isnan(a) | np.isnan(b)


def _comparison(name: str, kind: str) -> Callable[[Any, Any], Any]:
    if is_float(kind):
        if name in ("num", "nan"):
            return (lambda a, b: ~_unordered(a, b)) if name == "num" else _unordered
        if name.endswith("u"):  # also true where one of both is no number
            ordered = _COMPARISONS[name[:-1]]
            return lambda a, b: ordered(a, b) | _unordered(a, b)
        if name == "ne":
            return lambda a, b: (a != b) & ~_unordered(a, b)
    return _COMPARISONS[name]


@builds("setp")
def _setp(instruction: Instruction, decoder: Decoder) -> Operation:
    name, *others = instruction.modifiers[:-1]
    kind = instruction.type
    compare = _comparison(name, kind)
    combine = next((_LOGIC[other] for other in others if other in ("and", "or", "xor")), None)
    holds, holds_not = (decoder.write(register, "pred") for register in pair(instruction.operands[0]))
    a, b = (decoder.read(operand, kind) for operand in instruction.operands[1:3])
    if "ftz" in others:
        plain = compare
        compare = lambda a, b: plain(values.flushed(a), values.flushed(b))  # noqa: E731
    second = instruction.operands[0].count("|") > 0
    if kind in PACKED and combine is None:

        def run_packed(m: Any, mask: Any) -> None:
            result = compare(a(m), b(m))
            holds(m, mask, result[:, 0])
            holds_not(m, mask, result[:, 1])

        return run_packed
    if combine is None and not second:
        return lambda m, mask: holds(m, mask, compare(a(m), b(m)))
    c = decoder.read(instruction.operands[3], "pred") if combine else None

    def run(m: Any, mask: Any) -> None:
        result = compare(a(m), b(m))
        other = c(m).copy() if c else None
        holds(m, mask, combine(result, other) if c else result)
        if second:
            holds_not(m, mask, combine(~result, other) if c else ~result)

    return run


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
    if set(modifiers) - {*_ROUNDINGS, "rni", "rzi", "rmi", "rpi", "sat", "ftz"}:
        raise Unknown("modifiers")
    if to in PACKED:
        if source != "f32" or modifiers != ["rn"]:
            raise Unknown("packed conversion")
        put = decoder.write(instruction.operands[0], to)
        high, low = (decoder.read(operand, source) for operand in instruction.operands[1:])
        return lambda m, mask: put(m, mask, np.stack(np.broadcast_arrays(low(m), high(m)), axis=-1))
    round_ = next((mode for mode in modifiers if mode.endswith("i")), "")
    mode = next((mode for mode in modifiers if mode in _ROUNDINGS), "rn")
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
