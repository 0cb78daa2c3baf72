# SPDX-License-Identifier: Apache-2.0
"""Masks and label maps as bits, and back."""

from rsuper_kernels.ops.pack_bits.op import pack_labels, pack_masks, unpack_masks

__all__ = ["pack_labels", "pack_masks", "unpack_masks"]
