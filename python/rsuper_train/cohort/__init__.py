# SPDX-License-Identifier: Apache-2.0
"""Synthetic cohorts with reports and hidden truth: of ellipsoids (`phantom`) or on a CT (`real_ct`); see `write`."""

from rsuper_train.cohort.lesions import LesionOptions
from rsuper_train.cohort.phantom import PhantomOptions
from rsuper_train.cohort.write import CohortOptions, write_cohort

__all__ = ["CohortOptions", "LesionOptions", "PhantomOptions", "write_cohort"]
