# SPDX-License-Identifier: Apache-2.0
"""Networks by name: that each is built for the crops, what its heads are, and what is said of those that cannot be."""

from __future__ import annotations

import pytest

pytest.importorskip("monai")

import torch
from torch import nn

from rsuper_train.config import Config, parse_config
from rsuper_train.networks import build_network, heads, initialise


class Tied(nn.Conv3d):
    """A user's network."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, padding="same")


class Valued(Tied):
    """One whose code looks at values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.sum().item() == 0 else x


class OneOfAll(Tied):
    """One that forgets the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:1]


class Joined(Tied):
    """One that ends in no convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.bias.sum()


def config(name: str, patch: tuple[int, int, int] = (32, 32, 32), loss_heads=None, **network: object) -> Config:
    return parse_config(
        {
            "data": {"channels": ["liver_lesion", "liver"], "inputs": ["ct", "organs"], "patch": patch},
            "network": {"name": name, **network},
            "loss": {"heads": loss_heads},
        }
    )


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("SegResNet", {}, 1),
        ("SegResNetDS", {}, 1),
        ("SegResNetDS", {"dsdepth": 3, "init_filters": 8}, 3),
        ("DynUNet", {}, 1),
        ("DynUNet", {"deep_supervision": True, "deep_supr_num": 2}, 3),
        ("MedNeXt", {"init_filters": 8, "deep_supervision": True}, 5),
        ("MedNeXtSmall", {}, 1),
        ("UNet", {"num_res_units": 2}, 1),
        ("BasicUNet", {}, 1),
        ("AttentionUnet", {}, 1),
        ("SwinUNETR", {"feature_size": 12, "use_checkpoint": True}, 1),
        ("UNETR", {"feature_size": 8, "hidden_size": 96, "mlp_dim": 96, "num_heads": 4}, 1),
        ("VNet", {}, 1),
        (f"{__name__}:Tied", {"kernel": 5}, 1),
        (f"{__name__}:Valued", {}, 1),
    ],
)
def test_networks_and_their_heads(name, arguments, count):
    size = (64, 64, 64) if name == "SwinUNETR" else (32, 32, 32)
    asked = config(name, patch=size, arguments=arguments)
    network = build_network(asked)
    assert initialise(network, asked) == count
    # the biases of the last convolutions, and no others
    changed = [p for p in network.parameters() if p.ndim == 1 and (p == -4).all()]
    assert [len(bias) for bias in changed] == [2] * count
    with torch.no_grad():
        outputs = heads(network(torch.zeros(2, 2, *size)), size)
    assert [tuple(logits.shape) for logits in outputs] == [(2, 2, *size)] * count


def test_levels_of_a_unet_follow_from_the_crop():
    network = build_network(config("DynUNet", patch=(16, 48, 64)))
    assert network.strides == [1, (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 2)]
    assert heads(network(torch.zeros(1, 2, 16, 48, 64)), (16, 48, 64))[0].shape == (1, 2, 16, 48, 64)


def test_heads_are_sorted_and_enlarged():
    size = (4, 4, 4)
    coarse, fine = torch.rand(1, 2, 2, 2, 2), torch.rand(1, 2, *size)
    first, second = heads((coarse, fine), size)
    assert first is fine
    assert second.shape == fine.shape
    stacked = torch.rand(1, 3, 2, *size)
    assert [torch.equal(h, stacked[:, i]) for i, h in enumerate(heads(stacked, size))] == [True] * 3


@pytest.mark.parametrize(
    "output", [[], None, {"logits": torch.zeros(1)}, [torch.zeros(1, 2, 4, 4, 4), torch.zeros(())]]
)
def test_what_is_no_head(output):
    with pytest.raises(ValueError, match=r"^network: expected logits \(B, C, D, H, W\) or a list of them, got "):
        heads(output, (4, 4, 4))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (config("SegresnetDs"), "network.name: MONAI has no network 'SegresnetDs'; did you mean SegResNetDS?"),
        (config("Xyz123"), "network.name: MONAI has no network 'Xyz123'; see monai.networks.nets, or give package.mod"),
        (config("nowhere:Net"), "network.name: 'nowhere:Net' cannot be imported: No module named 'nowhere'"),
        (config("torch.nn:Convx"), "network.name: 'torch.nn:Convx' cannot be imported: module 'torch.nn' has no attr"),
        (config("fractions:Fraction"), "network.name: fractions:Fraction is not a network but a Fraction"),
        (
            config("BasicUNet", arguments={"filters": 3}),
            "network: BasicUNet cannot be built: BasicUNet.__init__() got an",
        ),
        (
            config("BasicUNet", arguments={"filters": 3}),
            "BasicUNet(spatial_dims=3, in_channels=1, out_channels=2, feat",
        ),
        (config("SegResNet", checkpointing=True), "network.checkpointing: SegResNet cannot recompute its activations"),
        (
            config("SegResNet", loss_heads=[1, 1]),
            "loss.heads: expected a weight for each of SegResNet's 1 heads, got [1.0, 1.0]",
        ),
        (
            config("SegResNet", arguments={"out_channels": 3}),
            "expected 2 output channels (data.channels), SegResNet has 3",
        ),
        (config("SegResNet", patch=(30, 32, 32)), "network: SegResNet does not take a batch (2, 2, 30, 32, 32): "),
        (
            config(f"{__name__}:Joined"),
            f"network.initial_bias: {__name__}:Joined does not end in convolutions with a bias",
        ),
        (
            config("torch.nn:Identity"),
            "network: expected logits of each crop that depend on its weights, torch.nn:Ident",
        ),
        (config(f"{__name__}:OneOfAll"), "network: expected logits of each crop"),
        (config("SegResNetVAE"), "got (2, 2, 32, 32, 32), ()"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(asked, message):
    with pytest.raises(ValueError) as caught:
        initialise(build_network(asked), asked)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_bias_can_stay():
    asked = config("SegResNet", initial_bias=None)
    network = build_network(asked)
    before = [p.clone() for p in network.parameters()]
    initialise(network, asked)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
