# SPDX-License-Identifier: Apache-2.0
"""All sums that the losses of a head are made of, in one read of the logits and one write of their gradient."""

from rsuper_kernels.ops.loss_sums.op import AttenuationStats, BceDice, RegionSums, Term, loss_sums

__all__ = ["AttenuationStats", "BceDice", "RegionSums", "Term", "loss_sums"]
