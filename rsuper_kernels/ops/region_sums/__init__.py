# SPDX-License-Identifier: Apache-2.0
"""Sums of probabilities over organs, sub-segments and unions of them."""

from rsuper_kernels.ops.region_sums.op import region_sums

__all__ = ["region_sums"]
