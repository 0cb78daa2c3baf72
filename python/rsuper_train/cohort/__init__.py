# SPDX-License-Identifier: Apache-2.0
"""Synthetic cohorts with reports and hidden truth: on a real CT (`real_ct`), of ellipsoids (`phantom`), on disk (`write`)."""

from rsuper_train.cohort.case import Case, Truth
from rsuper_train.cohort.phantom import PhantomOptions, make_phantom
from rsuper_train.cohort.write import CohortOptions, write_cohort

__all__ = ["Case", "CohortOptions", "PhantomOptions", "Truth", "make_phantom", "write_cohort"]
