# SPDX-License-Identifier: Apache-2.0
"""The process that compiles Triton kernels for `compiler.py`; it answers requests until its standard input ends.

Types, constants and alignments are found by the functions that Triton's JIT itself uses at a launch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from rsuper_kernels import gpu
from tests.emulation.compiler import CompileError, receive, send


def compiled(kernel: str, arguments: dict[str, Any], warps: int, target: str | int, binary: bool) -> dict[str, Any]:
    """The fields of a `compiler.Compiled`."""
    function = _function(kernel)
    amd = isinstance(target, str)
    gpu_target = GPUTarget("hip", target, 64) if amd else GPUTarget("cuda", target, 32)
    backend = make_backend(gpu_target)
    bind = create_function_from_signature(function.signature, function.params, backend)
    keywords = gpu.compile_options(function, arguments, warps, amd)
    bound, specialization, options = bind(**arguments, **keywords)
    options, signature, constants, attributes = function._pack_args(backend, keywords, bound, specialization, options)
    source = ASTSource(function, signature, constants, attributes)
    result = compile_kernel(source, target=gpu_target, options=options.__dict__)
    return {
        "name": result.metadata.name,
        "text": result.asm["amdgcn" if amd else "ptx"],
        "binary": result.asm["hsaco" if amd else "cubin"] if binary else b"",
        "shared": result.metadata.shared,
        "warps": result.metadata.num_warps,
        "parameters": tuple(name for name, kind in signature.items() if kind != "constexpr"),
    }


def _function(kernel: str) -> JITFunction:
    module, _, name = kernel.partition(":")
    function = getattr(importlib.import_module(module), name)
    while not isinstance(function, JITFunction):
        function = function.fn
    return function


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what compilers print goes to the standard error, not between the answers
    while (request := receive(sys.stdin.buffer)) is not None:
        try:
            answer: Any = compiled(**request)
        except Exception as error:
            answer = CompileError(f"{request['kernel']}, {request['target']}: {type(error).__name__}: {error}")
        send(answers, answer)


if __name__ == "__main__":
    main()
