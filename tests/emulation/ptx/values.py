# SPDX-License-Identifier: Apache-2.0
"""The numbers of PTX's types as numpy arrays: one element for each thread, and the roundings that numpy has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# Untyped bits are read as unsigned integers. bf16 has no type in numpy: it is read as float32.
DTYPES: dict[str, Any] = {
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}").type for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}").type for bits in (8, 16, 32, 64)},
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
    "bf16": np.float32,
    "pred": np.bool_,
}
# Two numbers in one register.
PACKED = {"f16x2": ("f16", 32), "bf16x2": ("bf16", 32), "f32x2": ("f32", 64)}

# To the nearest (ties to even), towards zero, down, up.
ROUNDINGS = ("rn", "rz", "rm", "rp")


def bits_of(kind: str) -> int:
    """How many bits a value of a type has in a register; a predicate has one."""
    if kind in PACKED:
        return PACKED[kind][1]
    return 1 if kind == "pred" else int(kind.lstrip("busf"))


def is_float(kind: str) -> bool:
    return kind.startswith(("f", "bf"))


def unsigned(bits: int) -> Any:
    return np.dtype(f"u{bits // 8}").type


def bf16_to_float(raw: Any) -> Any:
    return (np.asarray(raw).astype(np.uint32) << np.uint32(16)).view(np.float32)


def float_to_bf16(value: Any) -> Any:
    """Round to nearest, ties to even."""
    raw = np.asarray(value, np.float32).view(np.uint32)
    rounded = (raw + np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), rounded.astype(np.uint16))


def flushed(value: Any) -> Any:
    """Subnormal numbers as zeros of their sign, which is what .ftz does."""
    return np.where(np.abs(value) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), value), value)


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """a + b and what rounding took from it."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """a * b in double and what rounding took from it."""

    def halves(x: Any) -> tuple[Any, Any]:
        c = x * 134217729.0
        high = c - (c - x)
        return high, x - high

    p = a * b
    (ah, al), (bh, bl) = halves(a), halves(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def directed(value: Any, rest: Any, mode: str) -> Any:
    """The double next to value + rest in the direction of a mode, for `value` rounded to nearest and `rest` exact."""
    rest = np.where(np.isfinite(value), rest, 0.0)
    if mode == "rn":
        return value
    down = (rest < 0) & ((mode == "rm") | ((mode == "rz") & (value > 0)))
    up = (rest > 0) & ((mode == "rp") | ((mode == "rz") & (value < 0)))
    return np.where(down, np.nextafter(value, -np.inf), np.where(up, np.nextafter(value, np.inf), value))


def narrowed(value: Any, rest: Any, mode: str) -> Any:
    """value + rest, two doubles, as float32, rounded once."""
    # A double that is odd wherever something is left over cannot round wrongly a second time.
    inexact = (rest != 0) & np.isfinite(value) & ((value.view(np.uint64) & np.uint64(1)) == 0)
    value = np.where(inexact, np.nextafter(value, np.where(rest > 0, np.inf, -np.inf)), value)
    result = value.astype(np.float32)
    if mode == "rn":
        return result
    over = result.astype(np.float64) > value
    under = result.astype(np.float64) < value
    down = over & ((mode == "rm") | ((mode == "rz") & (value > 0)))
    up = under & ((mode == "rp") | ((mode == "rz") & (value < 0)))
    low, high = np.float32(-np.inf), np.float32(np.inf)
    return np.where(down, np.nextafter(result, low), np.where(up, np.nextafter(result, high), result))


def fma(a: Any, b: Any, c: Any, mode: str = "rn") -> Any:
    """a * b + c with one rounding."""
    if np.result_type(a) == np.float16:
        return (a.astype(np.float64) * b + c).astype(np.float16)
    if np.result_type(a) == np.float32:
        product = np.multiply(a, b, dtype=np.float64)  # exact
        s = product + c
        # a second rounding only goes wrong where the first left exactly half a float's last place
        half = (s.view(np.uint64) & np.uint64(0x1FFFFFFF)) == np.uint64(0x10000000)
        if mode == "rn" and not half.any():
            return s.astype(np.float32)
        return narrowed(*two_sum(product, np.asarray(c, np.float64)), mode)
    product, low = two_product(a, b)
    s, t = two_sum(product, c)
    rest = t + low
    exact = np.isfinite(rest)
    value = np.where(exact, s + np.where(exact, rest, 0.0), a * b + c)
    return directed(value, np.where(exact, (s - value) + rest, 0.0), mode)


def arithmetic(name: str, mode: str) -> Callable[[Any, Any], Any]:
    """add, sub or mul of floats with a rounding other than to the nearest."""

    def run(a: Any, b: Any) -> Any:
        single = np.result_type(a, b) == np.float32
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        value, rest = two_product(a, b) if name == "mul" else two_sum(a, -b if name == "sub" else b)
        return narrowed(value, rest, mode) if single else directed(value, rest, mode)

    return run


def to_integer(value: Any, kind: str, round_: str) -> Any:
    """A float as an integer: out of range to the nearest that there is, NaN to zero (64 bits: to the top bit)."""
    value = np.asarray(value, np.float64)
    rounded = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[round_](value)
    dtype = DTYPES[kind]
    limits = np.iinfo(dtype)
    nan = dtype(0) if limits.bits < 64 else np.array(1 << 63, np.uint64).view(dtype)
    low, high = rounded <= float(limits.min), rounded >= float(limits.max)
    inside = np.where(low | high | np.isnan(rounded), 0.0, rounded).astype(dtype)
    result = np.where(low, dtype(limits.min), np.where(high, dtype(limits.max), inside))
    return np.where(np.isnan(rounded), nan, result)


def divided(a: Any, b: Any) -> Any:
    """Integer division towards zero."""
    quotient = np.floor_divide(a, b)
    if np.issubdtype(np.result_type(a), np.signedinteger):
        quotient = quotient + ((quotient * b != a) & ((a < 0) != (b < 0)))
    return quotient.astype(np.result_type(a))


def high_product(a: Any, b: Any, kind: str) -> Any:
    """The upper half of a product of integers."""
    bits = bits_of(kind)
    if bits < 64:
        wide = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 4}").type
        return (np.asarray(a, wide) * np.asarray(b, wide) >> wide(bits)).astype(DTYPES[kind])
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    x, y = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
    xl, xh, yl, yh = x & low, x >> half, y & low, y >> half
    middle = xh * yl + (xl * yl >> half)
    other = xl * yh + (middle & low)
    high = xh * yh + (middle >> half) + (other >> half)
    if kind[0] == "s":
        zero = np.uint64(0)
        high = high - np.where(np.asarray(a) < 0, y, zero) - np.where(np.asarray(b) < 0, x, zero)
    return high.view(DTYPES[kind])


def leading_zeros(value: Any, bits: int) -> Any:
    value = np.asarray(value).astype(np.uint64)
    count = np.full(value.shape, bits, np.uint32)
    for step in (32, 16, 8, 4, 2, 1):
        if step < bits:
            big = value >> np.uint64(step) != 0
            count = np.where(big, count - np.uint32(step), count)
            value = np.where(big, value >> np.uint64(step), value)
    return np.where(value != 0, count - np.uint32(1), count).astype(np.uint32)


def reversed_bits(value: Any) -> Any:
    dtype = value.dtype
    raw = np.ascontiguousarray(value).view(np.uint8).reshape(-1, dtype.itemsize)
    flipped = np.packbits(np.unpackbits(raw, axis=1, bitorder="little"), axis=1, bitorder="big")
    return np.ascontiguousarray(flipped[:, ::-1]).view(dtype)[:, 0]
