# SPDX-License-Identifier: Apache-2.0
"""Masked sums that binary cross-entropy and Dice are made of."""

from rsuper_kernels.ops.masked_bce_dice.op import SUMS, masked_bce_dice

__all__ = ["SUMS", "masked_bce_dice"]
