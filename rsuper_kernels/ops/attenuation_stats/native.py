# SPDX-License-Identifier: Apache-2.0
"""Calls into the compiled module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rsuper_kernels import native
from rsuper_kernels.tables import planes_of


def attenuation_stats(
    ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, *tables: Any
) -> torch.Tensor:
    """Statistics (G, 2, 3); see reference.py."""
    ct, logits, tumour, organ = (native.readable(x) for x in (ct, logits, tumour, organ))
    return native.sums(logits, [_term(ct, logits, tumour, organ, None, *tables)], 6 * len(tumour)).view(-1, 2, 3)


def attenuation_stats_backward(
    grad: torch.Tensor, ct: torch.Tensor, logits: torch.Tensor, tumour: torch.Tensor, organ: torch.Tensor, *tables: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the logits and of a floating-point organ mask (zeros for another); see reference.py."""
    dtype = organ.dtype if organ.is_floating_point() else None
    ct, logits, tumour, organ = (native.readable(x) for x in (ct, logits, tumour, organ))
    grad_organ = torch.zeros(organ.shape) if dtype is None else torch.empty_like(organ)
    term = _term(ct, logits, tumour, organ, None if dtype is None else grad_organ, *tables)
    return native.sums_backward(grad, logits, [term]), grad_organ.to(dtype or grad_organ.dtype)


def _term(
    ct: torch.Tensor,
    logits: torch.Tensor,
    tumour: torch.Tensor,
    organ: torch.Tensor,
    grad_organ: torch.Tensor | None,
    sample: Sequence[int],
    channel: Sequence[int],
    eps: float,
    activation: str,
) -> Any:
    return native.module().attenuation_term(
        tuple(logits.shape[2:]),
        *(native.address(tensor) for tensor in (ct, tumour, organ)),
        planes_of(logits, sample, channel),
        list(sample),
        (-math.inf, math.inf),
        eps,
        activation == "sigmoid",
        0 if grad_organ is None else grad_organ.data_ptr(),
    )
