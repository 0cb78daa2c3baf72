# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.golden DIR [CASE ...]`: check `rsuper_kernels.compat` against a folder of golden vectors."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from .io import GoldenError, read_manifest
from .runner import run_case


def main(arguments: list[str] | None = None) -> int:
    """Print a line per case and a total; 0 when none failed, 1 when some did, 2 when the folder cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(__file__).parent / "vectors",
        help="folder with manifest.json and .npz files",
    )
    parser.add_argument("cases", nargs="*", help="case ids, or beginnings of them (default: all)")
    options = parser.parse_args(arguments)
    try:
        cases = read_manifest(options.folder)["cases"]
    except GoldenError as error:
        print(error, file=sys.stderr)
        return 2
    if options.cases:
        cases = [case for case in cases if case["id"].startswith(tuple(options.cases))]
        if not cases:
            print(f"no case in {options.folder} begins with {' or '.join(options.cases)}", file=sys.stderr)
            return 2
    outcomes, ties = [], []
    for case in cases:
        outcomes.append(run_case(options.folder, case))
        if outcomes[-1].status == "tie":
            ties.append(outcomes[-1])
        else:
            print(outcomes[-1], flush=True)
    if ties:
        print("\ntie-dependent in the public code (compared by voxel counts and sums, loss within 2e-2):")
        print("\n".join(map(str, ties)))
    totals = Counter(outcome.status for outcome in outcomes)
    passed, failed, tied = (totals[status] for status in ("pass", "fail", "tie"))
    print(f"\n{len(outcomes)} cases: {passed} passed, {failed} failed, {tied} tie-dependent within bounds")
    return int(totals["fail"] > 0)


if __name__ == "__main__":
    sys.exit(main())
