# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: what the public R-Super functions returned, and the check of `rsuper_kernels.compat` against them."""
