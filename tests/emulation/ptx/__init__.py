# SPDX-License-Identifier: Apache-2.0
"""An interpreter of the PTX that Triton and nvcc emit."""

import numpy as np

if np.lib.NumpyVersion(np.__version__) < "2.0.0":
    raise ImportError("the interpreter of PTX needs numpy 2, whose scalars keep their types")

from tests.emulation.ptx.launcher import NvccPtx, Ptx, run
from tests.emulation.ptx.machine import Kernel, PtxError
from tests.emulation.ptx.parser import parse

__all__ = ["Kernel", "NvccPtx", "Ptx", "PtxError", "parse", "run"]
