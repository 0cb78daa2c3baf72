# SPDX-License-Identifier: Apache-2.0
"""Binary dilation by a structuring element in voxels or mm."""

from rsuper_kernels.ops.dilate.op import dilate

__all__ = ["dilate"]
