# SPDX-License-Identifier: Apache-2.0
"""Unions, intersections and differences of masks, many at once."""

from rsuper_kernels.ops.combine.op import ALL, AND, MINUS, OR, Step, combine

__all__ = ["ALL", "AND", "MINUS", "OR", "Step", "combine"]
