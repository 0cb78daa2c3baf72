# SPDX-License-Identifier: Apache-2.0
"""Report supervision for 3D tumour segmentation: radiology reports as voxel-wise training losses.

Arrays are (B, C, D, H, W); spacing is (sD, sH, sW) in mm; CT numbers are HU. Importing compiles nothing and touches no
GPU. The public research code's function names are in `rsuper_kernels.compat`.
"""

from rsuper_kernels.dispatch import BackendError
from rsuper_kernels.findings import FindingGroup, Findings, Tumour
from rsuper_kernels.losses.attenuation import AttenuationClassifier, AttenuationLoss, attenuation_loss
from rsuper_kernels.losses.ball import BallLoss, BallTargets, ball_loss, pseudo_masks
from rsuper_kernels.losses.report import ReportSupervisedLoss
from rsuper_kernels.losses.segmentation import SegmentationLoss, known_voxels, segmentation_loss
from rsuper_kernels.losses.volume import VolumeLoss, volume_curve, volume_loss
from rsuper_kernels.recipes import PAPER, RSUPER, Recipe, get_recipe

__version__ = "0.1.0"

__all__ = [
    "PAPER",
    "RSUPER",
    "AttenuationClassifier",
    "AttenuationLoss",
    "BackendError",
    "BallLoss",
    "BallTargets",
    "FindingGroup",
    "Findings",
    "Recipe",
    "ReportSupervisedLoss",
    "SegmentationLoss",
    "Tumour",
    "VolumeLoss",
    "attenuation_loss",
    "ball_loss",
    "get_recipe",
    "known_voxels",
    "pseudo_masks",
    "segmentation_loss",
    "volume_curve",
    "volume_loss",
]
