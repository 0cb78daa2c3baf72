# SPDX-License-Identifier: Apache-2.0
"""A CUDA device that is none: the whole stack runs on it with real numbers, on a machine and a torch without CUDA."""
