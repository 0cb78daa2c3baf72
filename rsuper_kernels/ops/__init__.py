# SPDX-License-Identifier: Apache-2.0
"""The six ops, one room each: reference.py defines, op.py registers and checks, the other files make it fast."""
