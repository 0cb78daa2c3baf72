# SPDX-License-Identifier: Apache-2.0
"""Networks by name: MONAI's, or a class of the user's; and what they give back, as heads for the losses."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.networks import nets
from torch import nn

from rsuper_train.config import Config
from rsuper_train.files import first_line

DEEPEST = 5
"""Halvings of a patch, at most; as in nnU-Net, no axis is halved below four voxels."""
WIDTHS = (32, 64, 128, 256, 320, 320)


def build_network(config: Config) -> nn.Module:
    """The network of a configuration, with weights as its constructor leaves them.

    What the constructor asks for and `network.arguments` does not give comes from the rest of the configuration:
    numbers of channels, three dimensions, the size of the crops, and for U-Nets as many levels as the crops allow.

    Raises:
        ValueError: no such network (the nearest name is given), or arguments that it does not take.
    """
    section = config.network
    build = _constructor(section.name)
    parameters = inspect.signature(build).parameters
    arguments = {**_defaults(parameters, config), **section.arguments}
    if section.checkpointing:
        if "use_checkpoint" not in parameters:
            raise ValueError(
                f"network.checkpointing: {section.name} cannot recompute its activations, it has no argument "
                "use_checkpoint; SwinUNETR has one"
            )
        arguments["use_checkpoint"] = True
    try:
        network = build(**arguments)
    except Exception as error:  # whatever the constructor of any network raises
        raise ValueError(
            f"network: {section.name} cannot be built: {first_line(error)}; network.arguments may hold "
            f"{section.name}({_readable(parameters)})"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network.name: {section.name} is not a network but a {type(network).__name__}")
    return network


def heads(output: Any, size: Sequence[int]) -> list[torch.Tensor]:
    """What a network gives back as logits (B, C, D, H, W) of one size, finest first.

    Args:
        output: logits; a list of them, in which heads of one size keep their order; or stacked as (B, heads, C, ...).
        size: (D, H, W) to which smaller ones are interpolated.

    Raises:
        ValueError: something else.
    """
    maps = list(output) if isinstance(output, list | tuple) else [output]
    if isinstance(output, torch.Tensor) and output.ndim == 6:
        maps = list(output.unbind(1))
    if not maps or not all(isinstance(m, torch.Tensor) and m.ndim == 5 for m in maps):
        found = ", ".join(str(tuple(m.shape)) if isinstance(m, torch.Tensor) else type(m).__name__ for m in maps)
        raise ValueError(f"network: expected logits (B, C, D, H, W) or a list of them, got {found or 'nothing'}")
    maps.sort(key=lambda m: -m.shape[2:].numel())
    return [
        m if m.shape[2:] == torch.Size(size) else nn.functional.interpolate(m, tuple(size), mode="trilinear")
        for m in maps
    ]


def initialise(network: nn.Module, config: Config) -> int:
    """Try the network on a crop without computing anything, and set the biases of its last convolutions.

    Returns:
        The number of heads.

    Raises:
        ValueError: it does not take the crops, gives something else than logits of them, has another number of heads
            than `loss.heads`, or no such bias.
    """
    name, channels, size = config.network.name, len(config.data.channels), config.data.patch
    twin, outputs = _trial(network, (config.hardware.batch, len(config.data.inputs), *size), name)
    found = heads(outputs, size)
    if wrong := [m.shape[1] for m in found if m.shape[1] != channels]:
        raise ValueError(f"network: expected {channels} output channels (data.channels), {name} has {wrong[0]}")
    if any(len(m) != config.hardware.batch or not m.requires_grad for m in found):
        raise ValueError(f"network: expected logits of each crop that depend on its weights, {name} gives others")
    if config.loss.heads is not None and len(config.loss.heads) != len(found):
        raise ValueError(
            f"loss.heads: expected a weight for each of {name}'s {len(found)} heads, got {list(config.loss.heads)}"
        )
    if config.network.initial_bias is not None:
        names = {id(p): key for key, p in twin.named_parameters()}
        biases = [names.get(id(bias)) for bias in _last_biases(found)]
        if not biases or None in biases:
            raise ValueError(f"network.initial_bias: {name} does not end in convolutions with a bias; set it to null")
        for key in biases:
            nn.init.constant_(network.get_parameter(str(key)), config.network.initial_bias)
    return len(found)


def _constructor(name: str) -> Callable[..., Any]:
    module, colon, attribute = name.partition(":")
    if not colon:
        if not callable(getattr(nets, name, None)):
            known = {c.__name__.lower(): c.__name__ for c in vars(nets).values() if inspect.isclass(c)}
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            hint = (
                f"did you mean {known[near[0]]}?" if near else "see monai.networks.nets, or give package.module:Class"
            )
            raise ValueError(f"network.name: MONAI has no network {name!r}; {hint}")
        return getattr(nets, name)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network.name: {name!r} cannot be imported: {first_line(error)}") from None


def _defaults(parameters: Any, config: Config) -> dict[str, Any]:
    """Arguments that a constructor asks for and that follow from the configuration."""
    strides = _strides(config.data.patch)
    known: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": len(config.data.inputs),
        "out_channels": len(config.data.channels),
        "img_size": config.data.patch,
        "input_image_size": config.data.patch,
    }
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {name: known[name] for name in ("spatial_dims", "in_channels", "out_channels")}
    # options of U-Nets, where they have no default
    known |= {"channels": WIDTHS[: len(strides) + 1], "strides": strides}
    if "upsample_kernel_size" in parameters:
        known |= {"kernel_size": [3] * (len(strides) + 1), "strides": [1, *strides], "upsample_kernel_size": strides}
    if "norm" in parameters and parameters["norm"].default == "batch":
        known["norm"] = "instance"  # the few crops of a batch would estimate its statistics badly
    named = ("spatial_dims", "in_channels", "out_channels", "norm")
    return {n: known[n] for n, p in parameters.items() if n in known and (n in named or p.default is p.empty)}


def _strides(patch: Sequence[int]) -> list[tuple[int, ...]]:
    """Strides of a U-Net's levels below the first: axes are halved as long as they are even and eight voxels long."""
    sizes, strides = list(patch), list[tuple[int, ...]]()
    while len(strides) < DEEPEST:
        stride = tuple(2 if size >= 8 and size % 2 == 0 else 1 for size in sizes)
        if max(stride) == 1:
            break
        strides.append(stride)
        sizes = [size // s for size, s in zip(sizes, stride, strict=True)]
    return strides


def _trial(network: nn.Module, shape: Sequence[int], name: str) -> tuple[nn.Module, Any]:
    """A copy of a network, and what it gives back for a batch: of shapes alone where its code allows it."""
    try:
        twin = copy.deepcopy(network).to("meta").train()
        return twin, twin(torch.zeros(*shape, device="meta"))
    except Exception:  # the network's fault or that of the lack of values, which a real batch tells
        twin = copy.deepcopy(network).train()
    try:
        return twin, twin(torch.zeros(*shape))
    except Exception as error:
        raise ValueError(f"network: {name} does not take a batch {tuple(shape)}: {first_line(error)}") from error


def _last_biases(outputs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor | None]:
    """Biases of the convolutions that outputs come from, by way of the autograd graph; None for one without."""
    waiting, seen = deque(m.grad_fn for m in outputs), set[Any]()
    while waiting:
        node = waiting.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = [edge for edge, _ in node.next_functions]
        if node.name().startswith("ConvolutionBackward"):
            yield getattr(before[2], "variable", None)
        else:  # of a residual sum, one side takes the bias
            waiting.extend(before[:1] if node.name().startswith("AddBackward") else before)


def _readable(parameters: Any) -> str:
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters.values())
