# SPDX-License-Identifier: Apache-2.0
"""The losses, as functions and as modules: volume, ball, attenuation, segmentation, and all of them together."""
