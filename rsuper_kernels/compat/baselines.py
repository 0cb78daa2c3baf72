# SPDX-License-Identifier: Apache-2.0
"""Losses of the baselines of the public training code (public R-Super code, A.9, A.10)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rsuper_kernels.checks import accumulation_dtype, check_choice, check_shape


def model_genesis_loss(result: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean squared error between a restored crop and the original, as {"genesis_loss", "overall"}; gradient to
    `result`.

    Raises:
        ValueError: a `result` that is no tensor of the shape of `label` (the baseline has no deep supervision).
    """
    if not isinstance(result, torch.Tensor):
        raise ValueError(
            f"result: expected a tensor, since Models Genesis has a single head, got {type(result).__name__}"
        )
    check_shape("result", result, tuple(label.shape), "(B, 1, H, W, D)")
    dtype = accumulation_dtype(result)
    loss = F.mse_loss(result.to(dtype), label.to(dtype))
    return {"genesis_loss": loss, "overall": loss}


def info_nce(
    query: torch.Tensor,
    positive_key: torch.Tensor,
    negative_keys: torch.Tensor | None = None,
    temperature: float = 0.1,
    reduction: str = "mean",
    negative_mode: str = "unpaired",
) -> torch.Tensor:
    """Ask each query for its positive key among negative ones, by cosine similarity and cross-entropy.

    Args:
        query, positive_key: (N, E). Both take gradients.
        negative_keys: None, the other positive keys are the negatives; (M, E), shared by all ("unpaired"); or (N, M,
            E), each query its own ("paired").
        temperature: divides the similarities.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (N,) without reduction.

    Raises:
        ValueError: shapes, reduction or negative_mode that do not fit.

    Source: van den Oord et al., 2018; Radford et al., ICML 2021.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_choice("negative_mode", negative_mode, ("unpaired", "paired"))
    if query.ndim != 2:
        raise ValueError(f"query: expected (N, E), got shape {tuple(query.shape)}")
    count, width = query.shape
    check_shape("positive_key", positive_key, (count, width), "(N, E)")
    query, positive_key = F.normalize(query, dim=-1), F.normalize(positive_key, dim=-1)
    if negative_keys is None:
        target = torch.arange(count, device=query.device)
        return F.cross_entropy(query @ positive_key.T / temperature, target, reduction=reduction)
    paired = negative_mode == "paired"
    expected = (count, *negative_keys.shape[1:-1], width) if paired else (*negative_keys.shape[:-1], width)
    if negative_keys.ndim != 2 + paired:
        raise ValueError(
            f"negative_keys: expected {'(N, M, E)' if paired else '(M, E)'}, got shape {tuple(negative_keys.shape)}"
        )
    check_shape("negative_keys", negative_keys, expected, "(N, M, E)" if paired else "(M, E)")
    negative_keys = F.normalize(negative_keys, dim=-1)
    positive = (query * positive_key).sum(1, keepdim=True)
    negative = torch.einsum("ne,nme->nm", query, negative_keys) if paired else query @ negative_keys.T
    similarities = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(similarities, torch.zeros(count, dtype=torch.long, device=query.device), reduction=reduction)
