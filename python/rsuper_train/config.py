# SPDX-License-Identifier: Apache-2.0
"""The configuration of a run: one YAML file, every field with its unit and default."""

from __future__ import annotations

import difflib
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from rsuper_kernels import get_recipe
from rsuper_kernels.recipes import Recipe
from rsuper_train.files import read_map

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("expected the lower end first")
    return ends


Range = Annotated[tuple[Finite, Finite], AfterValidator(_ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]
Input = Literal["ct", "contrast", "organs"]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Data(Section):
    """What the network is trained on."""

    prepared: Path = Field(Path("prepared"), description="folder that `rsuper prepare` wrote")
    reports: Path | None = Field(None, description="table of tumours (`rsuper reports extract`); none: masks alone")
    channels: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("lesion",),
        description="the network's outputs: lesion channels (liver_lesion, ...; lesion is all of them in one), "
        "and classes of the label set",
    )
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)] = Field(
        ("ct",),
        description="the network's input channels: ct (z-scored), contrast (HU against the median of the voxel's "
        "organ, 40 HU outside organs, in units of 40 HU), organs (mask of all organs)",
    )
    patch: tuple[Count, Count, Count] = Field((96, 96, 96), description="voxels of a crop (D, H, W)")
    unmentioned: Literal["unknown", "negative"] = Field(
        "unknown", description="organs that a report with findings does not mention"
    )
    validation: Path | Probability = Field(
        0.0, description="cases kept from training: their share, or a text file with one id a line"
    )


class Sampling(Section):
    """Which crops are taken."""

    tumour_share: Probability = Field(0.5, description="crops of mask cases that are centred on a tumour, if any")
    organ_share: Probability = Field(0.4, description="crops of mask cases that are centred on an organ")


class Augmentation(Section):
    """Random changes of a crop; ranges are uniform, probabilities per crop."""

    flip: tuple[Literal["D", "H", "W"], ...] = Field(("D", "H", "W"), description="axes that may be mirrored")
    transpose: bool = Field(False, description="whether H and W may be exchanged")
    affine: Probability = Field(0.2, description="probability of rotating and scaling")
    rotation: tuple[float, float, float] = Field((15.0, 15.0, 15.0), description="degrees about D, H and W, at most")
    scale: PositiveRange = Field((0.8, 1.25), description="factor of all lengths; reported diameters follow")
    noise: Probability = Field(0.2, description="probability of Gaussian noise")
    noise_sd: Range = Field((0.0, 0.3), description="its standard deviation, in units of the input")
    blur: Probability = Field(0.15, description="probability of Gaussian smoothing")
    blur_sigma: PositiveRange = Field((0.5, 1.0), description="its sigma, voxels")
    brightness: Probability = Field(0.3, description="probability of scaling and shifting the input")
    brightness_factor: Range = Field((0.75, 1.25), description="factor of the input")
    brightness_shift: Range = Field((-0.2, 0.2), description="shift, in units of the input")
    gamma: Probability = Field(0.2, description="probability of a gamma curve")
    gamma_range: PositiveRange = Field((0.7, 1.5), description="its exponent")
    low_resolution: Probability = Field(0.1, description="probability of a resampling to coarser voxels and back")
    low_resolution_zoom: PositiveRange = Field((0.5, 1.0), description="zoom of the coarser grid")


class Network(Section):
    """Any network that maps (B, C_in, D, H, W) to logits (B, C_out, D, H, W), or to a list of them."""

    name: str = Field("SegResNetDS", description="a network of monai.networks.nets, or package.module:Class")
    arguments: dict[str, Any] = Field({}, description="its arguments besides the numbers of channels and dimensions")
    initial_bias: float | None = Field(
        -4.0, description="bias of the last convolution of each head, so that little is predicted at first; none: as is"
    )
    checkpointing: bool = Field(False, description="recompute activations, where the network can (use_checkpoint)")
    compile: bool = Field(False, description="torch.compile the network")
    weights: Path | None = Field(None, description="run or checkpoint to start from")


class Loss(Section):
    """Weights and options of `rsuper_kernels.ReportSupervisedLoss`."""

    recipe: Literal["paper", "rsuper"] = Field("paper", description="options to begin with")
    options: dict[str, Any] = Field({}, description="options of the recipe to change (region_margin: 0, ...)")
    segmentation: Weight = Field(1.0, description="weight of BCE and Dice on voxel labels")
    report: Weight = Field(0.1, description="weight of the volume and ball loss")
    volume: Weight = Field(1.0, description="weight of the volume loss within them")
    ball_bce: Weight = Field(1.0, description="weight of the ball's cross-entropy within them")
    ball_dice: Weight = Field(1.0, description="weight of the ball's Dice within them")
    attenuation: Weight = Field(0.01, description="weight of the attenuation loss")
    heads: tuple[Weight, ...] | None = Field(None, description="weight per head, final one first; none: 0.5 each")

    @model_validator(mode="after")
    def _check_options(self) -> Loss:
        try:
            self.build_recipe()
        except TypeError as error:  # an unknown option
            raise ValueError(str(error)) from None
        return self

    def build_recipe(self) -> Recipe:
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in self.options.items()}
        return get_recipe(self.recipe, **options)


class Stage(Section):
    """A part of the training with a schedule of its own; optimiser and schedule begin anew with each."""

    name: str = Field("train", description="for logs")
    steps: Count = Field(10_000, description="optimiser steps")
    report_ratio: Probability = Field(0.5, description="share of crops that come from cases without masks")
    learning_rate: Positive = Field(1e-3, description="peak of the learning rate")
    warmup: Annotated[int, Field(ge=0)] = Field(100, description="steps of linear warm-up")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="after the warm-up, to 0 at the end")


class Optimiser(Section):
    """How weights are changed."""

    name: Literal["AdamW", "SGD"] = "AdamW"
    weight_decay: Weight = 1e-4
    momentum: Probability = Field(0.99, description="of SGD (Nesterov)")
    clip: Positive | None = Field(5.0, description="norm to which gradients are clipped")
    accumulate: Count = Field(1, description="batches whose gradients make one step")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the running average of the weights, which is then what predicts; 0: none"
    )


class Hardware(Section):
    """Where and how it runs; see Lightning Fabric."""

    accelerator: str = Field("auto", description="auto, cpu, gpu, ...")
    devices: Count | Literal["auto"] = Field("auto", description="per node; torchrun's own number under torchrun")
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    batch: Count = Field(2, description="crops per process and step")
    workers: Annotated[int, Field(ge=0)] = Field(2, description="processes that load data, per process that trains")
    threads: Count | None = Field(
        None, description="CPU threads of torch; none: its own choice; the last bits of sums differ with it"
    )


class Logging(Section):
    """What is written, and when, in steps."""

    every: Count = Field(10, description="between lines of losses.csv")
    checkpoint: Count = Field(500, description="between checkpoints")
    validate_every: Count = Field(500, description="between losses on the validation cases, if there are any")
    tensorboard: bool = True


class Predict(Section):
    """How a whole CT is predicted; `rsuper predict` can override each."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="share by which windows overlap")
    mirror: tuple[Literal["D", "H", "W"], ...] = Field((), description="axes mirrored at test time")
    threshold: Probability = 0.5
    smallest: Weight = Field(0.0, description="mm3 below which a component is dropped")
    gate: Weight | None = Field(
        None, description="mm around the channel's organs outside which nothing is predicted; none: no gating"
    )


class Config(Section):
    """A run."""

    run: Path = Field(Path("runs/run"), description="folder for checkpoints, logs and this configuration")
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    network: Network = Network()
    loss: Loss = Loss()
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (Stage(),)
    optimiser: Optimiser = Optimiser()
    hardware: Hardware = Hardware()
    logging: Logging = Logging()
    predict: Predict = Predict()

    @model_validator(mode="after")
    def _check_average(self) -> Config:
        if self.optimiser.average and self.hardware.strategy == "fsdp":
            raise ValueError(
                "optimiser.average: weights that are spread over devices (fsdp) are not averaged; set it to 0"
            )
        return self

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: YAML; None: all defaults.
        overrides: "a.b=value", the value in YAML; list items by number ("stages.0.steps=10").

    Raises:
        ValueError: not YAML, an unknown key (with the nearest known one), a value out of range; the key is named.
    """
    data: dict[str, Any] = {}
    if path is not None and path.read_text(encoding="utf-8-sig").strip():
        data = read_map(path, "a configuration")
    for text in overrides:
        _override(data, text)
    return parse_config(data, str(path or "configuration"))


def parse_config(data: dict[str, Any], source: str = "configuration") -> Config:
    """As `load_config`, from a map."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        found = {item["loc"]: item for item in error.errors()}
        inner = [item for loc, item in found.items() if not any(other[: len(loc)] == loc != other for other in found)]
        raise ValueError("\n".join(f"{source}: {_problem(item)}" for item in inner)) from None


def to_yaml(config: Config) -> str:
    """A configuration in YAML that `load_config` reads, with what each key means above it."""
    return "\n".join(_lines(config, ""))


def _lines(section: Section, indent: str) -> Iterator[str]:
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        first = value[0] if isinstance(value, tuple) and value else value
        if not isinstance(first, Section):
            yield from _comment(_meaning(field), indent)
            yield f"{indent}{name}: {_flow(values[name])}"
            continue
        yield ""
        yield from _comment(type(first).__doc__, indent)
        yield f"{indent}{name}:"
        if first is value:
            yield from _lines(value, indent + "  ")
            continue
        for item in value:
            lines = list(_lines(item, indent + "    "))
            key = next(i for i, line in enumerate(lines) if not line.lstrip().startswith("#"))
            lines[key] = f"{indent}  - {lines[key].lstrip()}"
            yield from lines


def _comment(text: str | None, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join((text or "").split()), 116 - len(indent)):
        yield f"{indent}# {line}"


def _meaning(field: FieldInfo) -> str:
    """Description, choices and default of a field."""
    choices = [_flow(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    default = field.default.as_posix() if isinstance(field.default, Path) else field.default
    default = list(default) if isinstance(default, tuple) else default
    parts = (field.description, " | ".join(choices) if len(choices) > 1 else None, f"default {_flow(default)}")
    return "; ".join(part for part in parts if part)


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def _override(data: Any, text: str) -> None:
    key, equals, value = text.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise ValueError(f"--set: expected key=value such as stages.0.steps=100, got {text!r}")
    for name in parents:
        data = _entry(data, name, text)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set: the value is not YAML in {text!r}") from None
    if isinstance(data, list):
        data[_index(data, last, text)] = parsed
    else:
        data[last] = parsed


def _entry(data: Any, name: str, text: str) -> Any:
    """What a map or list holds under a name; an empty map where the map has none."""
    if isinstance(data, list):
        return data[_index(data, name, text)]
    if data.get(name) is None:
        data[name] = [{}] if name == "stages" else {}
    if not isinstance(data[name], dict | list):
        raise ValueError(f"--set: {name} holds a value, not keys, in {text!r}")
    return data[name]


def _index(data: list[Any], name: str, text: str) -> int:
    if not name.isdecimal() or int(name) >= len(data):
        raise ValueError(f"--set: expected a number below {len(data)} in place of {name!r} in {text!r}")
    return int(name)


def _problem(error: Any) -> str:
    """One mistake in a sentence: the key, what was expected, what was given."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        key = ".".join(part for part in map(str, error["loc"]) if part.isalnum() or part.isidentifier())  # of no union
        message = error["msg"].removeprefix("Value error, ")
        got = "" if isinstance(error["input"], dict) else f"; got {error['input']!r}"  # a section speaks for itself
        return f"{key}: {message}{got}" if key else message
    *parents, wrong = error["loc"]
    known = list(_fields(parents))
    near = difflib.get_close_matches(str(wrong), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known)}"
    return f"{key}: there is no such key; {hint}"


def _fields(parents: Iterable[Any]) -> Iterable[str]:
    """Keys of the section that the names lead to."""
    section: type[BaseModel] = Config
    for name in parents:
        if isinstance(name, str):
            section = Stage if name == "stages" else section.model_fields[name].annotation  # type: ignore[assignment]
    return section.model_fields
