# SPDX-License-Identifier: Apache-2.0
"""Instructions of PTX by the interpreter, with results computed by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.emulation.ptx import run
from tests.emulation.snippets import module

INF, NAN = math.inf, math.nan
TINY = 2.0**-30
TYPES = {
    "b8": torch.uint8, "u8": torch.uint8, "s8": torch.int8, "b16": torch.int16, "s16": torch.int16, "u16": torch.int16,
    "b32": torch.int32, "s32": torch.int32, "u32": torch.int32, "b64": torch.int64, "s64": torch.int64,
    "u64": torch.int64, "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
}  # fmt: skip


def evaluate(code: str, inputs: list[str], output: str, rows: list[tuple]) -> list:
    """What `code` leaves in %out for %a, %b, ... of each row."""
    size = {kind: TYPES[kind].itemsize for kind in (*inputs, output)}
    body = "".join(f".reg .b{8 * max(size[kind], 2)} %{name};" for name, kind in zip("abcd", inputs, strict=False))
    body += f".reg .b{8 * max(size[output], 2)} %out;"
    for i, (name, kind) in enumerate(zip("abcd", inputs, strict=False)):
        body += f"mad.wide.u32 %at, %lane, {size[kind]}, %p{i};"
        body += f"ld.global.b{8 * size[kind]} %{name}, [%at];"
    body += code
    body += f"mad.wide.u32 %at, %lane, {size[output]}, %p{len(inputs)}; st.global.b{8 * size[output]} [%at], %out;"
    columns = [
        torch.tensor([wrapped(row[i], kind) for row in rows], dtype=TYPES[kind]) for i, kind in enumerate(inputs)
    ]
    out = torch.zeros(len(rows), dtype=TYPES[output])
    run(module(body, len(inputs) + 1), (1,), len(rows), [*columns, out])
    return out.tolist()


def wrapped(value, kind: str):
    """An unsigned number as the signed one of the same bits, which torch has a type for."""
    if kind[0] in "fb" and not kind[1:].isdigit():
        return value
    if kind[0] == "f" or kind in ("u8", "b8"):
        return value
    bits = int(kind[1:])
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


CASES = [
    # code, inputs, output, rows of inputs and the result
    ("add.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(1, 2, 3), (2**31 - 1, 1, -(2**31))]),
    ("sub.u64 %out, %a, %b;", ["u64", "u64"], "u64", [(1, 2, 2**64 - 1)]),
    ("mul.lo.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(-3, 7, -21), (65536, 65536, 0)]),
    ("mul.hi.u32 %out, %a, %b;", ["u32", "u32"], "u32", [(2**31, 6, 3), (2**32 - 1, 2**32 - 1, 2**32 - 2)]),
    ("mul.hi.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(-1, 1, -1), (2**30, 8, 2)]),
    ("mul.hi.s64 %out, %a, %b;", ["s64", "s64"], "s64", [(-1, 1, -1), (2**62, -8, -2), (-(2**63), -(2**63), 2**62)]),
    ("mul.hi.u64 %out, %a, %b;", ["u64", "u64"], "u64", [(2**64 - 1, 2**64 - 1, 2**64 - 2), (2**63, 6, 3)]),
    ("mul.wide.s32 %out, %a, %b;", ["s32", "s32"], "s64", [(-(2**31), 2, -(2**32))]),
    ("mul.wide.u32 %out, %a, %b;", ["u32", "u32"], "u64", [(2**32 - 1, 2, 2**33 - 2)]),
    ("mad.wide.s32 %out, %a, 4, %b;", ["s32", "s64"], "s64", [(-1, 10, 6)]),
    ("mad.lo.s32 %out, %a, %b, %c;", ["s32"] * 3, "s32", [(3, 5, 7, 22)]),
    ("div.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(7, -2, -3), (-7, 2, -3), (-8, 2, -4)]),
    ("div.u32 %out, %a, %b;", ["u32", "u32"], "u32", [(2**32 - 1, 2, 2**31 - 1)]),
    ("rem.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(7, -2, 1), (-7, 2, -1)]),
    ("rem.u64 %out, %a, %b;", ["u64", "u64"], "u64", [(2**64 - 1, 10, 5)]),
    ("min.s32 %out, %a, %b;", ["s32", "s32"], "s32", [(-1, 1, -1)]),
    ("min.u32 %out, %a, %b;", ["u32", "u32"], "u32", [(2**32 - 1, 1, 1)]),
    ("neg.s32 %out, %a;", ["s32"], "s32", [(5, -5), (-(2**31), -(2**31))]),
    ("abs.s64 %out, %a;", ["s64"], "s64", [(-5, 5)]),
    ("and.b32 %out, %a, %b;", ["b32", "b32"], "b32", [(0b1100, 0b1010, 0b1000)]),
    ("or.b64 %out, %a, %b;", ["b64", "b64"], "b64", [(0b1100, 0b1010, 0b1110)]),
    ("xor.b16 %out, %a, %b;", ["b16", "b16"], "b16", [(0b1100, 0b1010, 0b0110)]),
    ("not.b32 %out, %a;", ["b32"], "b32", [(0, 2**32 - 1)]),
    ("lop3.b32 %out, %a, %b, %c, 0xCA;", ["b32"] * 3, "b32", [(0xFF00, 0x1234, 0xABCD, 0x12CD)]),
    ("shl.b32 %out, %a, %b;", ["b32", "u32"], "b32", [(3, 4, 48), (1, 31, 2**31), (1, 32, 0), (1, 100, 0)]),
    ("shr.u32 %out, %a, %b;", ["u32", "u32"], "u32", [(2**31, 31, 1), (2**31, 32, 0)]),
    ("shr.s32 %out, %a, %b;", ["s32", "u32"], "s32", [(-8, 2, -2), (-8, 40, -1)]),
    ("shr.u64 %out, %a, %b;", ["u64", "u32"], "u64", [(2**63, 63, 1), (2**63, 64, 0)]),
    ("shf.l.wrap.b32 %out, %a, %b, %c;", ["b32", "b32", "u32"], "b32", [(0x80000001, 1, 1, 3), (5, 6, 32, 6)]),
    ("shf.r.clamp.b32 %out, %a, %b, %c;", ["b32", "b32", "u32"], "b32", [(2, 1, 1, 0x80000001), (5, 6, 40, 6)]),
    ("bfe.u32 %out, %a, %b, %c;", ["u32"] * 3, "u32", [(0xABCD, 4, 8, 0xBC), (0xFF, 30, 8, 0), (1, 0, 0, 0)]),
    ("bfe.s32 %out, %a, %b, %c;", ["b32"] * 3, "s32", [(0xABCD, 4, 8, -68), (0x70, 4, 4, 7), (-1, 30, 8, -1)]),
    ("bfe.u64 %out, %a, %b, %c;", ["u64", "u32", "u32"], "u64", [(2**63, 63, 1, 1), (2**64 - 1, 0, 64, 2**64 - 1)]),
    ("bfi.b32 %out, %a, %b, %c, 8;", ["b32", "b32", "u32"], "b32", [(0x12, 0xFFFFFFFF, 4, 0xFFFFF12F)]),
    ("bfi.b64 %out, %a, %b, %c, 32;", ["b64", "b64", "u32"], "b64", [(1, 7, 32, 2**32 + 7)]),
    ("bfind.u32 %out, %a;", ["u32"], "u32", [(0, 2**32 - 1), (1, 0), (0x8000, 15)]),
    ("bfind.shiftamt.u32 %out, %a;", ["u32"], "u32", [(0x8000, 16)]),
    ("bfind.s32 %out, %a;", ["s32"], "u32", [(-1, 2**32 - 1), (-3, 1)]),
    ("popc.b32 %out, %a;", ["b32"], "u32", [(0xF0F0, 8), (0xFFFFFFFF, 32)]),
    ("popc.b64 %out, %a;", ["b64"], "u32", [(2**64 - 1, 64)]),
    ("clz.b32 %out, %a;", ["b32"], "u32", [(0, 32), (1, 31), (2**31, 0)]),
    ("clz.b64 %out, %a;", ["b64"], "u32", [(0, 64), (2**40, 23)]),
    ("brev.b32 %out, %a;", ["b32"], "b32", [(1, 2**31), (0b110, 0b011 << 29)]),
    ("brev.b64 %out, %a;", ["b64"], "b64", [(1, 2**63)]),
    ("prmt.b32 %out, %a, %b, %c;", ["b32"] * 3, "b32", [(0x33221100, 0x77665544, 0x0716, 0x00771166)]),
    ("prmt.b32 %out, %a, %b, %c;", ["b32"] * 3, "b32", [(0x80, 0, 0x8, 0x808080FF)]),
    ("selp.b32 %out, %a, %b, %q0;", ["b32", "b32"], "b32", [(1, 2, 2)]),
    ("slct.s32.s32 %out, %a, %b, %c;", ["s32", "s32", "s32"], "s32", [(1, 2, 0, 1), (1, 2, -1, 2)]),
    # comparisons
    ("setp.lt.s32 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["s32", "s32"], "s32", [(-1, 1, 1), (1, 1, 0)]),
    ("setp.lo.u32 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["u32", "u32"], "s32", [(2**32 - 1, 1, 0), (0, 1, 1)]),
    ("setp.ne.f32 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["f32", "f32"], "s32", [(1.0, NAN, 0), (1.0, 2.0, 1)]),
    ("setp.neu.f32 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["f32", "f32"], "s32", [(1.0, NAN, 1), (1.0, 1.0, 0)]),
    ("setp.gtu.f64 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["f64", "f64"], "s32", [(NAN, 1.0, 1), (0.0, 1.0, 0)]),
    ("setp.nan.f32 %q1, %a, %b; selp.s32 %out, 1, 0, %q1;", ["f32", "f32"], "s32", [(NAN, 1.0, 1), (0.0, 1.0, 0)]),
    # floats
    ("fma.rn.f32 %out, %a, %b, %c;", ["f32"] * 3, "f32", [(1 + 2**-12, 1 - 2**-12, -1.0, -(2.0**-24))]),
    ("fma.rn.f32 %out, %a, %b, %c;", ["f32"] * 3, "f32", [(1 + 2**-23, 1.0, 2**-24 + 2.0**-47 * 2**-6, 1 + 2**-22)]),
    ("fma.rm.f32 %out, %a, %b, %c;", ["f32"] * 3, "f32", [(1.0, 1.0, TINY, 1.0), (-1.0, 1.0, -TINY, -1 - 2**-23)]),
    ("fma.rn.f64 %out, %a, %b, %c;", ["f64"] * 3, "f64", [(1 + TINY, 1 - TINY, -1.0, -(TINY**2))]),
    ("add.rz.f64 %out, %a, %b;", ["f64"] * 2, "f64", [(1.0, -(2.0**-60), 1 - 2**-53), (1.0, 2.0**-60, 1.0)]),
    ("add.rp.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(1.0, 2.0**-60, 1 + 2**-23)]),
    ("mul.rz.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(1 + 2**-23, 1 + 2**-23, 1 + 2**-22)]),
    ("add.ftz.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(2.0**-140, 2.0**-120, 2.0**-120), (2.0**-140, 0.0, 0.0)]),
    ("add.sat.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(0.75, 0.5, 1.0), (-1.0, 0.5, 0.0), (NAN, 0.0, 0.0)]),
    ("min.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(NAN, 1.0, 1.0), (2.0, 1.0, 1.0)]),
    ("max.NaN.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(NAN, 1.0, NAN)]),
    ("copysign.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(-1.0, 5.0, -5.0)]),
    ("rcp.approx.ftz.f32 %out, %a;", ["f32"], "f32", [(4.0, 0.25), (2.0**-140, INF)]),
    ("sqrt.rn.f64 %out, %a;", ["f64"], "f64", [(2.25, 1.5)]),
    ("rsqrt.approx.f32 %out, %a;", ["f32"], "f32", [(4.0, 0.5)]),
    ("ex2.approx.f32 %out, %a;", ["f32"], "f32", [(3.0, 8.0), (-INF, 0.0)]),
    ("lg2.approx.f32 %out, %a;", ["f32"], "f32", [(8.0, 3.0), (0.0, -INF)]),
    ("div.full.f32 %out, %a, %b;", ["f32"] * 2, "f32", [(1.0, 4.0, 0.25)]),
    ("mul.f16 %out, %a, %b;", ["f16"] * 2, "f16", [(1.5, 2.0, 3.0), (300.0, 300.0, INF)]),
    ("fma.rn.bf16 %out, %a, %b, %c;", ["bf16"] * 3, "bf16", [(2.0, 3.0, 1.0, 7.0)]),
    # conversions
    ("cvt.rzi.s32.f32 %out, %a;", ["f32"], "s32", [(-2.7, -2), (3e9, 2**31 - 1), (-3e9, -(2**31)), (NAN, 0)]),
    ("cvt.rni.s32.f32 %out, %a;", ["f32"], "s32", [(2.5, 2), (3.5, 4)]),
    ("cvt.rmi.s64.f64 %out, %a;", ["f64"], "s64", [(-2.1, -3), (1e19, 2**63 - 1)]),
    ("cvt.rpi.f32.f32 %out, %a;", ["f32"], "f32", [(2.1, 3.0)]),
    ("cvt.rzi.u32.f32 %out, %a;", ["f32"], "u32", [(-1.0, 0), (4e9, 4000000000)]),
    ("cvt.rn.f32.s64 %out, %a;", ["s64"], "f32", [(2**24 + 1, 2.0**24), (-(2**40), -(2.0**40))]),
    ("cvt.rz.f32.u32 %out, %a;", ["u32"], "f32", [(2**32 - 1, float(2**32 - 256))]),
    ("cvt.rn.f32.f64 %out, %a;", ["f64"], "f32", [(1 + 2**-24, 1.0), (1 + 2**-24 + 2**-50, 1 + 2**-23)]),
    ("cvt.rp.f32.f64 %out, %a;", ["f64"], "f32", [(1 + 2**-40, 1 + 2**-23)]),
    ("cvt.sat.f32.f32 %out, %a;", ["f32"], "f32", [(2.0, 1.0), (-2.0, 0.0)]),
    ("cvt.rn.bf16.f32 %out, %a;", ["f32"], "bf16", [(1 + 2**-8, 1.0), (1 + 3 * 2**-8, 1 + 2**-6), (NAN, NAN)]),
    ("cvt.f32.bf16 %out, %a;", ["bf16"], "f32", [(-1.5, -1.5)]),
    ("cvt.rn.f16.f32 %out, %a;", ["f32"], "f16", [(1 + 2**-11, 1.0), (1e6, INF)]),
    ("cvt.f32.f16 %out, %a;", ["f16"], "f32", [(-1.5, -1.5)]),
    ("cvt.s64.s32 %out, %a;", ["s32"], "s64", [(-1, -1)]),
    ("cvt.u64.u32 %out, %a;", ["u32"], "u64", [(2**32 - 1, 2**32 - 1)]),
    ("cvt.u32.u64 %out, %a;", ["u64"], "u32", [(2**40 + 5, 5)]),
    ("cvt.s32.s8 %out, %a;", ["b32"], "s32", [(0x1FE, -2)]),
    ("cvt.u16.u32 %h1, %a; cvt.u32.u16 %out, %h1;", ["u32"], "u32", [(0x12345, 0x2345)]),
    ("cvt.sat.u8.s32 %h1, %a; cvt.u32.u8 %out, %h1;", ["s32"], "u32", [(-5, 0), (300, 255)]),
    ("cvt.rn.bf16x2.f32 %out, %a, %b;", ["f32"] * 2, "b32", [(1.0, -2.0, 0x3F80C000)]),
    ("cvt.rn.f16x2.f32 %out, %a, %b;", ["f32"] * 2, "b32", [(1.0, -2.0, 0x3C00C000)]),
    ("add.f16x2 %out, %a, %b;", ["b32"] * 2, "b32", [(0x3C00C000, 0x3C003C00, 0x4000BC00)]),
    ("fma.rn.bf16x2 %out, %a, %b, %a;", ["b32"] * 2, "b32", [(0x3F80C000, 0x40003F80, 0x4040C080)]),
    # moves
    ("mov.b64 {%r1, %r2}, %a; mov.b64 %out, {%r2, %r1};", ["b64"], "b64", [(0x1_0000_0002, 0x2_0000_0001)]),
    ("mov.b32 {%h1, %h2}, %a; mov.b32 %out, {%h2, %h1};", ["b32"], "b32", [(0x00010002, 0x00020001)]),
    ("mov.b32 {_, %h2}, %a; cvt.u32.u16 %out, %h2;", ["b32"], "u32", [(0x00010002, 1)]),
    ("mov.b32 %f1, %a; add.f32 %out, %f1, 0f3F800000;", ["b32"], "f32", [(0x40000000, 3.0)]),
    ("mov.f64 %e1, 0d4008000000000000; add.f64 %out, %e1, %a;", ["f64"], "f64", [(1.0, 4.0)]),
]  # fmt: skip


# Where control flows, and the scopes of names.
LONGER_CASES = [
    (
        """setp.gt.s32 %q2, %a, 0; setp.lt.and.s32 %q1|%q3, %b, 10, !%q2; selp.s32 %r1, 1, 0, %q1;
        selp.s32 %r2, 2, 0, %q3; add.s32 %out, %r1, %r2;""",
        ["s32", "s32"],
        "s32",
        [(0, 5, 1), (0, 50, 2), (1, 5, 0), (1, 50, 0)],
    ),
    (
        """mov.u32 %out, 1; setp.gt.s32 %q1, %a, 0; @%q1 bra $X; mov.u32 %out, 2;
        $X: add.u32 %out, %out, 10;""",
        ["s32"],
        "u32",
        [(1, 11), (0, 12), (5, 11)],
    ),
    (
        """mov.u32 %out, 0;
        $X: add.u32 %out, %out, %a; sub.s32 %a, %a, 1; setp.gt.s32 %q1, %a, 0; @%q1 bra $X;""",
        ["s32"],
        "u32",
        [(1, 1), (4, 10), (10, 55), (2, 3)],
    ),
    (
        """ts: .branchtargets $A, $B; brx.idx %a, ts;
        $A: mov.u32 %out, 10; bra.uni $C;
        $B: mov.u32 %out, 20;
        $C:""",
        ["u32"],
        "u32",
        [(0, 10), (1, 20), (0, 10)],
    ),
    (
        "{ .reg .b32 %r1; mov.u32 %r1, 7; { .reg .b32 %r1; mov.u32 %r1, 8; } add.u32 %out, %r1, %a; }",
        ["u32"],
        "u32",
        [(1, 8)],
    ),
    ("@!%q0 mov.u32 %out, 5; @%q0 mov.u32 %out, 6;", [], "u32", [(5,)]),
]


def name_of(case: tuple) -> str:
    return case[0].split("%")[0].strip()


@pytest.mark.parametrize("case", CASES + LONGER_CASES, ids=name_of)
def test_instruction(case):
    code, inputs, output, rows = case
    found = evaluate(code, inputs, output, [row[:-1] for row in rows])
    expected = [wrapped(row[-1], output) for row in rows]
    np.testing.assert_array_equal(np.array(found, float), np.array(expected, float))
    assert found == expected or any(value != value for value in found)


def test_approximate_reciprocal_of_a_double_has_half_its_bits():
    (found,) = evaluate("rcp.approx.ftz.f64 %out, %a;", ["f64"], "f64", [(3.0,)])
    assert found != 1 / 3
    assert abs(found * 3 - 1) < 2**-19


def test_fma_rounds_once():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 500))
    c = -a * b * (1 + rng.integers(-2, 3, 500) * 2.0**-52)
    rows = list(zip(a.tolist(), b.tolist(), c.tolist(), strict=True))
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in rows]
    assert evaluate("fma.rn.f64 %out, %a, %b, %c;", ["f64"] * 3, "f64", rows) == exact
