# SPDX-License-Identifier: Apache-2.0
"""What the losses cost on a GPU: counted without one (`cost`), measured on one (`make bench-gpu`)."""
