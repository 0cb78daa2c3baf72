# SPDX-License-Identifier: Apache-2.0
"""The public R-Super functions: same names, argument order, defaults and return values, on the ops of this package.

Nothing is printed or written to disk and there is no global state. What the public code rejects with an assert raises
ValueError with the reason. Arrays are (B, C, H, W, D) in voxels of 1 mm, as there. Masks and weights take no gradient.
Checks that would have to read a mask or logits back from an accelerator are made for CPU tensors only; report tables
and one flag per sample and lesion channel are always read.
"""

from rsuper_kernels.compat.attenuation import (
    extract_hu,
    get_mask_lesion_masks,
    l1_simple_attenuation_classifier,
    simple_classifier,
)
from rsuper_kernels.compat.ball import ball_loss, ball_pseudo_masks
from rsuper_kernels.compat.baselines import info_nce, model_genesis_loss
from rsuper_kernels.compat.channels import get_lesion_channels
from rsuper_kernels.compat.isolate import isolate_tumor
from rsuper_kernels.compat.masks import (
    ball_convolution,
    create_ball_kernel,
    dilate_volume,
    dilate_volume_conv,
    dilate_volume_maxpool,
    get_known_voxels,
    insert_ball,
)
from rsuper_kernels.compat.segmentation import DiceLossMultiClass, GlobalWeightedRankPooling
from rsuper_kernels.compat.training import (
    calculate_loss,
    classification_loss,
    merge_no_overlap,
)
from rsuper_kernels.compat.volume import dice_based_volume_loss, volume_loss_basic

__all__ = [
    "DiceLossMultiClass",
    "GlobalWeightedRankPooling",
    "ball_convolution",
    "ball_loss",
    "ball_pseudo_masks",
    "calculate_loss",
    "classification_loss",
    "create_ball_kernel",
    "dice_based_volume_loss",
    "dilate_volume",
    "dilate_volume_conv",
    "dilate_volume_maxpool",
    "extract_hu",
    "get_known_voxels",
    "get_lesion_channels",
    "get_mask_lesion_masks",
    "info_nce",
    "insert_ball",
    "isolate_tumor",
    "l1_simple_attenuation_classifier",
    "merge_no_overlap",
    "model_genesis_loss",
    "simple_classifier",
    "volume_loss_basic",
]
