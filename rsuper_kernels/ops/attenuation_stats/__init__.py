# SPDX-License-Identifier: Apache-2.0
"""Soft mean and standard deviation of CT numbers inside a tumour and in the organ around it."""

from rsuper_kernels.ops.attenuation_stats.op import attenuation_stats

__all__ = ["attenuation_stats"]
