# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the masked cross-entropy and Dice sums."""

from __future__ import annotations

import triton
import triton.language as tl

from rsuper_kernels.tiles import twice_artanh


@triton.jit
def _minus_log(p):
    """-log p, at most 100; close to p = 1 exact in relative terms."""
    minus_log = tl.where(p > 0.5, -twice_artanh((p - 1) / (p + 1)), -tl.log(p))
    return tl.minimum(minus_log, 100.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def plain_entropies(p):
    """-log p and -log(1 - p) of probabilities, each at most 100, as in torch."""
    return _minus_log(p), _minus_log(1 - p)


@triton.jit
def plain_slopes(p):
    """Derivatives of -log p and of -log(1 - p) with respect to p."""
    # p (1 - p) is kept away from 0 as torch does, so that p = 0 and p = 1 have finite slopes
    scale = tl.maximum(p * (1 - p), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    return (p - 1) / scale, p / scale
