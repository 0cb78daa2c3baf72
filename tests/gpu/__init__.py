# SPDX-License-Identifier: Apache-2.0
"""What has to be right on a GPU: `make test-gpu` on one, `make test-gpu-dry` on the fake device."""
