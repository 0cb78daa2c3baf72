# SPDX-License-Identifier: Apache-2.0
"""`rsuper`, or `python -m rsuper_train`: the command line, or the word on how to get what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from rsuper_train.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"rsuper: {error.name} is not installed; the trainer needs: pip install 'rsuper-kernels[train]'")
    run()


if __name__ == "__main__":
    main()
