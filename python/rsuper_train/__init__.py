# SPDX-License-Identifier: Apache-2.0
"""The thin trainer: segmentation networks that learn tumours from radiology reports, through `rsuper_kernels`.

In the order of the work: `reports`, `prepare`, `samples`, `engine`, `predict`, `evaluation`, `audit`; `cohort` makes
synthetic cases, and `demo` goes all the way.
"""
