# SPDX-License-Identifier: Apache-2.0
"""`python tests/smoke.py native|pure`: the golden vectors on an installed rsuper_kernels, on every backend that works.

It fails when what Python finds are the sources, or when the compiled module is missing (native) or there (pure). Needs
rsuper_kernels and its dependencies only.
"""

import argparse
import sys
from pathlib import Path

import torch
from golden.io import read_manifest  # Python finds what lies beside this script, and not the sources one folder above
from golden.runner import run_case

import rsuper_kernels
from rsuper_kernels import dispatch, gpu, native

TESTS = Path(__file__).resolve().parent
VECTORS = TESTS / "golden" / "vectors"


def working() -> list[str]:
    """The backends that serve some op on this machine's CPU."""
    cpu, ops = torch.device("cpu"), dispatch.ops()
    return [impl for impl in dispatch.IMPLEMENTATIONS if any(dispatch.refusal(op, impl, cpu) is None for op in ops)]


def failures(impl: str) -> int:
    """Run all golden cases with `impl`, and "reference" for what it cannot do; the number of those that fail."""
    dispatch.IMPLEMENTATIONS = tuple(dict.fromkeys((impl, "reference")))  # what "auto" chooses from
    cases = read_manifest(VECTORS)["cases"]
    failed = [outcome for outcome in (run_case(VECTORS, case) for case in cases) if outcome.status == "fail"]
    print(*failed, f"{impl}: {len(cases)} golden cases, {len(failed)} failed", sep="\n")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("native", "pure"), help="whether the compiled module has to be there")
    kind = parser.parse_args().kind
    compiled, reason = native.available()
    package = Path(rsuper_kernels.__file__).parent
    print(f"{package}: {reason}")
    if package == TESTS.parent / "rsuper_kernels":
        sys.exit("these are the sources: install the package, and run this with the Python that it is installed for")
    if compiled != (kind == "native"):
        sys.exit(f"expected a {kind} install")
    if package not in gpu.sources().parents or not list(gpu.sources().glob("cuda/*.cu")):
        sys.exit("the sources of the CUDA kernels are missing")
    return int(sum([failures(impl) for impl in working()]) > 0)


if __name__ == "__main__":
    sys.exit(main())
