# SPDX-License-Identifier: Apache-2.0
"""The thin trainer: segmentation networks that learn tumours from radiology reports, through `rsuper_kernels`.

`rsuper demo` makes a synthetic cohort on a real CT, trains on its reports alone and compares with hidden lesion masks.
"""
