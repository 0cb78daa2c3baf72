# SPDX-License-Identifier: Apache-2.0
"""A tumour's most probable voxels inside its ball, and the weights of their ranks."""

from rsuper_kernels.ops.ball_select.op import ball_select, foreground_weights, rank_weights

__all__ = ["ball_select", "foreground_weights", "rank_weights"]
