# SPDX-License-Identifier: Apache-2.0
"""One step of every loss on the GPU: `compute-sanitizer --tool memcheck python -m tests.gpu.sanitize`."""

from __future__ import annotations

import torch

from tests.gpu.test_losses import LOSSES, on, step


def main() -> None:
    given = on("cuda")
    for name in LOSSES:
        step(name, given)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
