# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one file each with weights, state of the training, configuration and versions; whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from rsuper_train.config import Config, parse_config
from rsuper_train.files import at_path
from rsuper_train.manifest import Manifest
from rsuper_train.networks import build_network

FORMAT = 1
FOLDER, LAST, BEST = "checkpoints", "last.pt", "best.pt"
PACKAGES = ("rsuper-kernels", "torch", "monai", "lightning-fabric", "numpy", "nibabel", "blosc2")
FREE_TO_CHANGE = (
    "run",
    "logging",
    "hardware",
    "predict",
    "network.compile",
    "network.checkpointing",
    "network.weights",
)
"""What may differ when a run is taken up again; so may the steps of a stage, and stages may follow."""


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what a run gives."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that is not installed
            found[package] = "unknown"
    return found


def save(fabric: Fabric, path: Path, config: Config, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; called on all ranks.

    Args:
        state: modules, optimisers and others with a state_dict, and plain values.
    """
    about = {"format": FORMAT, "config": config.model_dump_json(), "versions": versions()}
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fabric.save(part, {**about, **state})
        fabric.barrier()
        if fabric.is_global_zero:
            os.replace(part, path)
    except OSError as error:
        raise at_path(path, error) from error
    finally:
        if fabric.is_global_zero:
            part.unlink(missing_ok=True)
    fabric.barrier()


def read(path: Path) -> dict[str, Any]:
    """A checkpoint as it is on disk, or that of a run that predicts; tensors on the CPU, read when they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this trainer.
    """
    path = find_checkpoint(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises several kinds for damaged and foreign files
        raise ValueError(f"{path}: this is not a checkpoint, or a damaged one ({type(error).__name__})") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of `rsuper train` in format {FORMAT}")
    return checkpoint


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that predicts: a file itself; of a run, the best one by validation loss, or else the last one."""
    if not path.is_dir():
        return path
    best = path / FOLDER / BEST
    return best if best.is_file() else path / FOLDER / LAST


def load_network(path: Path, device: str | torch.device = "cpu") -> tuple[nn.Module, Config]:
    """The network of a run, ready to predict, and the run's configuration.

    Args:
        path: run folder or checkpoint; where weights were averaged, the average is what predicts.

    Raises:
        FileNotFoundError, ValueError: no checkpoint there, or weights that do not fit the network.
    """
    checkpoint = read(path)
    config = parse_config(json.loads(checkpoint["config"]), str(path))
    network = build_network(config)
    load_weights(network, checkpoint, path)
    return network.to(device).eval(), config


def load_manifest(path: Path) -> Manifest:
    """How the data that a network was trained on was prepared, without its cases.

    Raises:
        FileNotFoundError, ValueError: no checkpoint there, or one that does not say so.
    """
    checkpoint = read(path)
    if "preprocessing" not in checkpoint:
        raise ValueError(f"{path}: it does not say how its data was prepared; expected a checkpoint of `rsuper train`")
    return Manifest.model_validate_json(checkpoint["preprocessing"])


def load_weights(network: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Weights of a checkpoint, averaged ones where there are.

    Raises:
        ValueError: they are those of another network; the first differences are named.
    """
    weights = checkpoint["network"]
    if checkpoint.get("average"):
        prefix = "module."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["average"].items() if k.startswith(prefix)}
    check_weights(network, weights, path)
    network.load_state_dict(weights)


def check_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ValueError unless names and shapes are those of the network."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    if differing:
        shown = "; ".join(
            f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}" for name in differing[:3]
        )
        raise ValueError(
            f"{path}: these are weights of another network, {len(differing)} of {len(expected)} tensors differ: {shown}"
        )


def check_config(config: Config, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if a run would go on with what it did not begin with; the keys are named."""
    then, now = _flat(json.loads(checkpoint["config"])), _flat(config.model_dump(mode="json"))
    stages = len(json.loads(checkpoint["config"])["stages"])
    differing = [
        f"{key} was {then.get(key)!r} and is {now.get(key)!r}"
        for key in {**then, **now}
        if then.get(key) != now.get(key) and not _free(key, stages)
    ]
    if differing:
        raise ValueError(
            f"{path}: the run began with another configuration: {'; '.join(differing[:5])}; set it back, or give "
            "another folder (run)"
        )


def checkpoint_provenance(path: Path) -> dict[str, Any]:
    """What a prediction says about its model: file, sha256, step and versions."""
    path = find_checkpoint(path)
    checkpoint = read(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {
        "file": str(path),
        "sha256": digest.hexdigest(),
        "step": checkpoint["counters"]["step"],
        "versions": checkpoint["versions"],
    }


def _flat(data: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key; lists of maps are counted, other lists are values."""
    if isinstance(data, list) and data and isinstance(data[0], dict):
        data = {str(index): item for index, item in enumerate(data)}
    if not isinstance(data, dict):
        return {key: data}
    return {k: v for name, item in data.items() for k, v in _flat(item, f"{key}.{name}".strip(".")).items()}


def _free(key: str, stages: int) -> bool:
    """Whether a run of so many stages may be taken up with another value under a key."""
    first, *rest = key.split(".")
    if first == "stages":
        return rest[-1] == "steps" or int(rest[0]) >= stages
    return any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
