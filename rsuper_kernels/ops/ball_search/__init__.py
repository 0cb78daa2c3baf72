# SPDX-License-Identifier: Apache-2.0
"""Where a ball of a tumour's size holds the most probability."""

from rsuper_kernels.ops.ball_search.op import ball_search

__all__ = ["ball_search"]
