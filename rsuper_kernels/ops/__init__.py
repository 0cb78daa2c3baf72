# SPDX-License-Identifier: Apache-2.0
"""One room per op; importing this registers all of them."""

from rsuper_kernels.ops import (
    attenuation_stats,
    ball_search,
    ball_select,
    combine,
    curves,
    dilate,
    loss_sums,
    masked_bce_dice,
    pack_bits,
    place_balls,
    region_sums,
)

__all__ = [
    "attenuation_stats",
    "ball_search",
    "ball_select",
    "combine",
    "curves",
    "dilate",
    "loss_sums",
    "masked_bce_dice",
    "pack_bits",
    "place_balls",
    "region_sums",
]
