# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is refused and how it is said, overrides, and the complete YAML."""

from __future__ import annotations

import pytest

pytest.importorskip("pydantic")

import yaml
from typer.testing import CliRunner

from rsuper_train.cli import app
from rsuper_train.config import Config, Section, load_config, parse_config, to_yaml

RUNNER = CliRunner()


def sections(section: Section):
    yield section
    for value in dict(section).values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Section):
                yield from sections(item)


def test_the_complete_yaml_says_what_every_key_means():
    text = to_yaml(Config())
    assert parse_config(yaml.safe_load(text)) == Config()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    comments = " ".join(line.strip("# ") for line in lines if line.lstrip().startswith("#"))
    for section in sections(Config()):
        for name, field in type(section).model_fields.items():
            assert any(line.strip(" -").startswith(f"{name}:") for line in lines)
            assert field.description is None or field.description in comments
    assert "AdamW | SGD; default AdamW" in comments


def test_a_changed_configuration_comes_back(tmp_path):
    config = parse_config(
        {
            "run": "runs/ü",
            "data": {"reports": "a, b.csv", "channels": ["liver_lesion", "liver"], "validation": "ids.txt"},
            "network": {"name": "x.y:Z", "arguments": {"norm": ["group", {"num_groups": 4}], "text": "no"}},
            "stages": [{"name": "a"}, {"name": "b", "steps": 5}],
            "loss": {"heads": [1, 0.5], "options": {"region_margin": 0.0}},
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.0.steps=7", lambda c: c.stages[0].steps == 7),
        ("network.arguments.norm=instance", lambda c: c.network.arguments == {"norm": "instance"}),
        ("data.patch=[8, 16, 24]", lambda c: c.data.patch == (8, 16, 24)),
        ("optimiser.clip=null", lambda c: c.optimiser.clip is None),
        ("stages.0.learning_rate=1e-4", lambda c: c.stages[0].learning_rate == 1e-4),
        ("run=a=b", lambda c: str(c.run) == "a=b"),
    ],
)
def test_overrides(tmp_path, override, expected):
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert expected(load_config(path, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.name=SGD", "optimizer: there is no such key; did you mean 'optimiser'?"),
        ("optimiser.clipp=3", "optimiser.clipp: there is no such key; did you mean 'clip'?"),
        ("stages.0.step=3", "stages.0.step: there is no such key; did you mean 'steps'?"),
        ("logging.xyz=3", "the keys here are every, checkpoint, validate_every, tensorboard"),
        ("stages.1.steps=3", "--set: expected a number below 1 in place of '1' in 'stages.1.steps=3'"),
        ("seed", "--set: expected key=value such as stages.0.steps=100, got 'seed'"),
        ("seed=[1", "--set: the value is not YAML in 'seed=[1'"),
        ("run.a=1", "--set: run holds a value, not keys, in 'run.a=1'"),
        ("hardware.batch=0", "hardware.batch: Input should be greater than or equal to 1; got 0"),
        ("data.patch=[8, 8]", "data.patch.2: Field required"),
        ("data.validation=1.5", "data.validation: Input should be less than or equal to 1; got 1.5"),
        ("hardware.devices=0", "hardware.devices: Input should be greater than or equal to 1; got 0"),
        ("augmentation.scale=[1.2, 0.8]", "augmentation.scale: expected the lower end first; got [1.2, 0.8]"),
        ("augmentation.gamma_range=[0, 1]", "augmentation.gamma_range.0: Input should be greater than 0; got 0"),
        ("augmentation.noise_sd=[.nan, 1]", "augmentation.noise_sd.0: Input should be a finite number; got nan"),
        ("optimiser.average=1", "optimiser.average: Input should be less than 1; got 1"),
        ("loss.options.tolerances=1", "loss: unknown option"),
    ],
)
def test_what_is_refused_names_the_key(tmp_path, override, message):
    path = tmp_path / "c.yaml"
    path.write_text("run: here\n")
    with pytest.raises(ValueError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)
    assert "stages: Tuple" not in str(caught.value)  # which follows from what is wrong in a stage


def test_an_average_of_weights_that_are_spread_is_refused():
    with pytest.raises(ValueError, match=r"optimiser\.average: .*fsdp.*; set it to 0"):
        parse_config({"optimiser": {"average": 0.9}, "hardware": {"strategy": "fsdp"}})


def test_the_command_prints_what_train_reads(tmp_path):
    printed = RUNNER.invoke(app, ["config", "--set", "seed=5"])
    assert printed.exit_code == 0, printed.output
    path = tmp_path / "c.yaml"
    path.write_text(printed.output)
    assert load_config(path) == Config(seed=5)
