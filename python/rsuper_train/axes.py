# SPDX-License-Identifier: Apache-2.0
"""The order of axes in the trainer: arrays are (D, H, W), which run to the head, to anterior and to patient right."""

Voxels = tuple[int, int, int]
Spacing = tuple[float, float, float]
"""mm between voxels."""
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one behind the last, along D, H and W."""
