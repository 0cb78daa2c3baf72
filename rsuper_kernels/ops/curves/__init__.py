# SPDX-License-Identifier: Apache-2.0
"""The last step of a loss: from a few sums per group to one number."""

from rsuper_kernels.ops.curves.op import adaptive_dice, bce_dice, volume, volume_curve

__all__ = ["adaptive_dice", "bce_dice", "volume", "volume_curve"]
