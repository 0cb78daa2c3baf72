# SPDX-License-Identifier: Apache-2.0
"""`python -m rsuper_kernels`, and what importing the package does not do."""

import subprocess
import sys

import torch

from rsuper_kernels import __version__, dispatch
from rsuper_kernels.__main__ import report


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_report_lists_every_op_and_every_reason():
    lines = report().splitlines()
    assert lines[0].startswith(f"rsuper_kernels {__version__}, torch {torch.__version__}, Python ")
    assert lines[1].startswith("devices: cpu")
    start = lines.index("on cpu:")
    listed = {line.split()[0]: line for line in lines[start + 1 :] if line.startswith("  ") and "reference" in line}
    assert listed.keys() == {op for op in dispatch.ops() if not op.endswith("_backward")}
    assert "  not here:" in lines[start:]
    for impl in ("cuda", "triton"):
        assert any(line.startswith(f"    {impl}: ") for line in lines[start:])


def test_report_says_what_refuses_and_why(monkeypatch):
    monkeypatch.setattr(dispatch, "refusal", lambda op, impl, device: None if impl == "reference" else "no moon")
    count = len([op for op in dispatch.ops() if not op.endswith("_backward")])
    assert f"    triton: no moon ({count} of {count} ops)" in report().splitlines()


def test_runs_as_a_module():
    assert run("-m", "rsuper_kernels").strip() == report()


def test_import_compiles_nothing_and_pulls_in_no_extra():
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import rsuper_kernels\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "print(any(name.startswith('rsuper_kernels._C') for name in sys.modules))\n"
    )
    imported, native = run("-c", program).splitlines()
    assert "rsuper_kernels" in imported.split()
    assert not {"triton", "cupy", "scipy", "monai", "pybind11", "matplotlib"} & set(imported.split())
    assert native == "False"
