# SPDX-License-Identifier: Apache-2.0
"""Comparisons of a result with its golden value, all of the form "error <= tolerance".

- masks: number of differing voxels, tolerance 0
- losses: |ours - stored| / max(|stored|, 0.1), tolerance 1e-5 (so 1e-6 absolute near 0)
- gradients: see `io.gradient_error`, tolerance 1e-4
- masks that depend on how the public code's top-k broke ties: voxel counts, and the sum of x over the mask
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .io import GoldenError, gradient_error

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
TIE_LOSS_TOLERANCE = 2e-2

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One comparison of a case: what was compared, how far it is off, and how far it may be."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; a NaN is not."""
        return self.error <= self.tolerance

    @property
    def badness(self) -> float:
        """Error in units of the tolerance, to find the worst check of a case."""
        return self.error if self.tolerance == 0 else self.error / self.tolerance


def loss_check(
    name: str, ours: object, stored: np.ndarray, tolerance: float = LOSS_TOLERANCE, floor: float = 0.1
) -> Check:
    """|ours - stored| / max(|stored|, floor), the worst of all entries."""
    if isinstance(ours, torch.Tensor):
        ours = ours.detach().double().numpy()
    ours = np.asarray(ours, np.float64)
    if ours.shape != stored.shape:
        raise GoldenError(f"{name}: shape {ours.shape}, stored {stored.shape}")
    error = np.abs(ours - stored) / np.maximum(np.abs(stored), floor)
    return Check(name, float(error.max(initial=0.0)), tolerance)


def gradient_check(name: str, ours: torch.Tensor | None, arrays: Arrays, ranked: torch.Tensor | None = None) -> Check:
    """Compare a gradient; `ranked` holds the logits if the loss weighs voxels by their rank.

    Equal logits rank as an unstable sort leaves them, which differs between CPUs: where the strict comparison fails,
    voxels that share their logit with another one of the channel may be off by 1e-2.
    """
    shape = tuple(int(size) for size in arrays[f"{name}.shape"])
    # the public loss adds leading axes of 1 to inputs of three or four axes
    ours = torch.zeros(shape) if ours is None else ours.reshape((1,) * (len(shape) - ours.ndim) + ours.shape)
    gradient = ours.double().numpy()
    check = Check(name, gradient_error(arrays, name, gradient), GRADIENT_TOLERANCE)
    if not check.passed and ranked is not None:
        shared = _shared_values(ranked.detach().numpy())
        error = gradient_error(arrays, name, gradient, loose=shared)
        check = Check(f"{name} but for equal logits", error, GRADIENT_TOLERANCE)
    return check


def _shared_values(values: np.ndarray) -> np.ndarray:
    """Where a value (B, C, *S) occurs more than once in its channel."""
    planes = values.reshape(-1, np.prod(values.shape[2:]))
    groups = [np.unique(plane, return_inverse=True, return_counts=True) for plane in planes]
    return np.stack([counts[inverse] > 1 for _, inverse, counts in groups]).reshape(values.shape)


def mask_check(name: str, ours: torch.Tensor, stored: np.ndarray) -> Check:
    """Number of voxels that differ."""
    if tuple(ours.shape) != stored.shape:
        raise GoldenError(f"{name}: shape {tuple(ours.shape)}, stored {stored.shape}")
    return Check(name, float((ours.detach().double().numpy() != stored).sum()), 0)


def tie_checks(name: str, ours: torch.Tensor, stored: np.ndarray, x: np.ndarray | None = None) -> Iterator[Check]:
    """Relative difference of the voxel counts and, given x, of the sums of x over the masks."""
    ours = ours.detach().double().numpy()
    yield Check(f"{name} count", float(abs(ours.sum() - stored.sum()) / max(stored.sum(), 1)), TIE_LOSS_TOLERANCE)
    if x is not None:
        yield loss_check(f"{name} sum of x", (ours * x).sum(), np.asarray((stored.astype(np.float64) * x).sum()))
