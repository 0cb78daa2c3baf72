# SPDX-License-Identifier: Apache-2.0
"""All reported tumours of all planes, placed one after another where the network sees them."""

from rsuper_kernels.ops.place_balls.op import Ball, Placed, place_balls

__all__ = ["Ball", "Placed", "place_balls"]
