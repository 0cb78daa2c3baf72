# SPDX-License-Identifier: Apache-2.0
"""Kernels of a few instructions of PTX."""

from __future__ import annotations

from tests.emulation.ptx import Kernel, parse


def module(body: str, parameters: int = 1, shared: int = 0) -> Kernel:
    """A kernel of these instructions, with registers of all kinds and its parameters in %p0, %p1, ..."""
    listed = ", ".join(f".param .u64 parameter{i}" for i in range(parameters))
    loads = "\n".join(f"ld.param.u64 %p{i}, [parameter{i}];" for i in range(parameters))
    return Kernel(
        parse(
            f"""
            .version 8.7
            .target sm_90
            .address_size 64
            {f".shared .align 16 .b8 tile[{shared}];" if shared else ""}
            .visible .entry kernel({listed}) {{
                .reg .pred %q<9>; .reg .b16 %h<9>; .reg .b32 %r<19>; .reg .b64 %d<19>; .reg .b64 %p<5>;
                .reg .f32 %f<9>; .reg .f64 %e<9>; .reg .b32 %lane; .reg .b64 %at;
                {loads}
                mov.u32 %lane, %tid.x;
                {body}
                ret;
            }}"""
        )
    )
