# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disk: whole or not there, readable without trust, refused where they do not fit."""

from __future__ import annotations

import hashlib

import pytest

pytest.importorskip("lightning_fabric")

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rsuper_train.checkpoint import (
    check_weights,
    checkpoint_provenance,
    find_checkpoint,
    load_manifest,
    load_network,
    read,
    save,
    versions,
)
from rsuper_train.config import Config, parse_config
from rsuper_train.networks import build_network

UNET = {"name": "UNet", "arguments": {"channels": [4, 8], "strides": [2]}}


@pytest.fixture
def config() -> Config:
    return parse_config({"network": UNET, "data": {"patch": [16, 16, 16]}})


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def write(fabric, path, config, network, **more) -> None:
    save(fabric, path, config, {"network": network, "counters": {"step": 7}, **more})


def test_a_network_comes_back_as_it_was(fabric, config, tmp_path):
    network = build_network(config)
    write(fabric, tmp_path / "run" / "checkpoints" / "last.pt", config, network)
    loaded, read_config = load_network(tmp_path / "run")
    assert read_config == config
    assert not loaded.training
    image = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(loaded(image), network.eval()(image))


def test_averaged_weights_predict(fabric, config, tmp_path):
    network = build_network(config)
    average = AveragedModel(network, use_buffers=True)
    with torch.no_grad():
        for parameter in average.module.parameters():
            parameter.fill_(0.5)
    write(fabric, tmp_path / "a.pt", config, network, average=average)
    loaded, _ = load_network(tmp_path / "a.pt")
    assert all((parameter == 0.5).all() for parameter in loaded.parameters())


def test_the_best_checkpoint_of_a_run_predicts(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert find_checkpoint(tmp_path) == folder / "last.pt"
    (folder / "best.pt").touch()
    assert find_checkpoint(tmp_path) == folder / "best.pt"
    assert find_checkpoint(folder / "last.pt") == folder / "last.pt"


def test_provenance(fabric, config, tmp_path):
    path = tmp_path / "a.pt"
    write(fabric, path, config, build_network(config))
    said = checkpoint_provenance(path)
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["step"] == 7
    assert said["versions"] == versions()
    assert said["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such checkpoint"),
        (b"", "this is not a checkpoint, or a damaged one"),
        (b"PK\x03\x04 and no more", "this is not a checkpoint, or a damaged one"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "a.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_files_of_others(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a checkpoint of `rsuper train` in format 1"):
        read(tmp_path / "other.pt")
    torch.save({"format": 1, "network": nn.Linear(1, 1)}, tmp_path / "code.pt")  # runs code when it is unpickled
    with pytest.raises(ValueError, match="not a checkpoint"):
        read(tmp_path / "code.pt")


def test_a_failed_write_leaves_the_last_checkpoint(fabric, config, tmp_path, monkeypatch):
    path, network = tmp_path / "a.pt", build_network(config)
    write(fabric, path, config, network)
    before = path.read_bytes()

    def half(part, state):
        part.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(fabric, "save", half)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.pt"):
        write(fabric, path, config, network)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_of_another_network(config, tmp_path):
    network = build_network(config)
    weights = network.state_dict()
    check_weights(network, weights, tmp_path)
    name = next(iter(weights))
    renamed = {("other" if key == name else key): tensor for key, tensor in weights.items()}
    with pytest.raises(ValueError, match=rf"2 of \d+ tensors differ: {name}: expected \(4, 1, 3, 3, 3\), found none"):
        check_weights(network, renamed, tmp_path)
    larger = weights | {name: torch.zeros(5, 1, 3, 3, 3)}
    with pytest.raises(ValueError, match=r"expected \(4, 1, 3, 3, 3\), found \(5, 1, 3, 3, 3\)"):
        check_weights(network, larger, tmp_path)


def test_a_checkpoint_that_does_not_say_how_its_data_was_prepared(fabric, config, tmp_path):
    write(fabric, tmp_path / "last.pt", config, build_network(config))
    with pytest.raises(ValueError, match=r"last\.pt: it does not say how its data was prepared; expected"):
        load_manifest(tmp_path / "last.pt")
