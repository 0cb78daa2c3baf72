# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_training_step():
    """The ten lines, with a network, a CT and organ labels to run them on."""
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    ct = torch.randn(1, 1, 10, 24, 24)
    organ_labels = torch.zeros(1, 10, 24, 24, dtype=torch.uint8)
    organ_labels[:, 2:8, 4:20, 4:12], organ_labels[:, 2:8, 4:20, 12:20] = 15, 16
    names = {"network": network, "ct": ct, "ct_hu": 50 + 20 * ct, "organ_labels": organ_labels}
    exec(BLOCKS[0], names)
    assert set(names["losses"]) == {"total", "ball_bce", "ball_dice", "volume", "attenuation"}
    assert names["losses"]["total"].item() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_compat_import():
    names: dict = {}
    exec(BLOCKS[1], names)
    assert {"ball_loss", "calculate_loss", "volume_loss_basic"} <= set(names)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http|#)([^)]+)\)", README))
def test_links_lead_somewhere(target):
    assert (Path(__file__).parent.parent / target).exists()
