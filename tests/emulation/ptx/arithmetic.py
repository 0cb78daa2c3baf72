# SPDX-License-Identifier: Apache-2.0
"""Instructions on a lane's own registers: arithmetic and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulation.ptx import values
from tests.emulation.ptx.decode import Decoder, Operation, Unknown, allow, builds, elementwise, pair
from tests.emulation.ptx.parser import Instruction
from tests.emulation.ptx.values import DTYPES, PACKED, ROUNDINGS, bits_of, is_float


def _rounding(instruction: Instruction) -> str:
    return next((mode for mode in instruction.modifiers if mode in ROUNDINGS), "rn")


def _element(kind: str) -> str:
    return PACKED[kind][0] if kind in PACKED else kind


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
    allow(instruction, *ROUNDINGS, "ftz", "sat")
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
        allow(instruction, *ROUNDINGS, "ftz", "sat")
        function = np.multiply if mode == "rn" else values.arithmetic("mul", mode)
        return elementwise(instruction, decoder, [kind, kind], kind, _finished(instruction, function))
    allow(instruction, "lo", "hi", "wide")
    how = instruction.modifiers[0]
    result = _widened(kind) if how == "wide" else kind
    return elementwise(instruction, decoder, [kind, kind], result, _product(kind, how))


@builds("mad")
def _mad(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    if is_float(kind):
        return _fma(instruction, decoder)
    allow(instruction, "lo", "hi", "wide")
    how = instruction.modifiers[0]
    result = _widened(kind) if how == "wide" else kind
    product = _product(kind, how)
    return elementwise(instruction, decoder, [kind, kind, result], result, lambda a, b, c: product(a, b) + c)


@builds("fma")
def _fma(instruction: Instruction, decoder: Decoder) -> Operation:
    allow(instruction, *ROUNDINGS, "ftz", "sat")
    kind, mode = instruction.type, _rounding(instruction)
    function = _finished(instruction, lambda a, b, c: values.fma(a, b, c, mode))
    return elementwise(instruction, decoder, [kind] * 3, kind, function)


@builds("div")
def _div(instruction: Instruction, decoder: Decoder) -> Operation:
    allow(instruction, "rn", "approx", "full", "ftz")
    kind = instruction.type
    function = _finished(instruction, np.divide) if is_float(kind) else values.divided
    return elementwise(instruction, decoder, [kind, kind], kind, function)


@builds("rem")
def _rem(instruction: Instruction, decoder: Decoder) -> Operation:
    return elementwise(instruction, decoder, [instruction.type] * 2, instruction.type, np.fmod)


@builds("min", "max")
def _extreme(instruction: Instruction, decoder: Decoder) -> Operation:
    allow(instruction, "ftz", "NaN")
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
    allow(instruction, "approx", "rn", "ftz")
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
    allow(instruction, "ftz")
    function = np.negative if instruction.opcode == "neg" else np.abs
    kind = instruction.type
    return elementwise(instruction, decoder, [kind], kind, _finished(instruction, function))


@builds("copysign")
def _copysign(instruction: Instruction, decoder: Decoder) -> Operation:
    kind = instruction.type
    return elementwise(instruction, decoder, [kind, kind], kind, lambda sign, size: np.copysign(size, sign))


_COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
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
    combine = next((_COMBINATIONS[other] for other in others if other in _COMBINATIONS), None)
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
