# SPDX-License-Identifier: Apache-2.0
"""Training: stages of steps, each on the mean loss of its samples; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import FSDPStrategy
from rich.console import Console
from torch.distributed import all_gather_object, is_torchelastic_launched
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from rsuper_train import checkpoint as checkpoints
from rsuper_train.cases import Cases
from rsuper_train.checkpoint import BEST, FOLDER, LAST
from rsuper_train.config import Config, Hardware, Optimiser, Stage, to_yaml
from rsuper_train.files import first_line, write_text
from rsuper_train.logs import Log, Times, say
from rsuper_train.losses import LOSSES, build_criterion, losses_and_gradients, sample_losses
from rsuper_train.networks import build_network, heads, initialise
from rsuper_train.samples import Batch, Sample, TrainingCrops, ValidationCrops, collate

PATIENCE = 20
"""Steps in a row without a finite gradient after which training gives up; a loss scaler finds its scale in fewer."""

GRACE = 2.0
"""Seconds after a signal in which others are the same one, come by another way (a launcher's, a scheduler's)."""


def train(config: Config, console: Console) -> Path:
    """Train a network; a run that was interrupted goes on from its last checkpoint.

    SIGTERM and SIGINT end the step, write a checkpoint and return; a later one ends the process at once.

    Returns:
        The run's folder: config.yaml, versions.json, losses.csv, tensorboard/, checkpoints/last.pt, and best.pt where
        there are validation cases.

    Raises:
        ValueError, OSError: what cannot be trained on, a checkpoint that does not fit, losses that stay not finite.
    """
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    fabric = launch(config.hardware)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    with StopSignals() as stop:
        training = Training(config, fabric, Cases(config.data), console)
        try:
            training.run(stop)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"hardware: {first_line(error)}; try a smaller hardware.batch or data.patch") from error
        except RuntimeError as error:  # a process that loads data ended while something else was done
            if "DataLoader worker (pid" not in str(error):
                raise
            raise _data_error(error) from error
        finally:
            training.close()
    return config.run


def launch(hardware: Hardware) -> Fabric:
    """Lightning Fabric on the hardware asked for, or on what torchrun says."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    devices, nodes = hardware.devices, hardware.nodes
    if is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy = FSDPStrategy(state_dict_type="full") if hardware.strategy == "fsdp" else hardware.strategy
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            strategy=strategy,
            devices=devices,
            num_nodes=nodes,
            precision=hardware.precision,
        )
    except (RuntimeError, ValueError) as error:  # a device that is not there
        raise ValueError(f"hardware: {error}") from error
    fabric.launch()
    return fabric


class StopSignals:
    """Notes the name of the first SIGTERM or SIGINT; one that comes later than `GRACE` has its default effect."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    name = ""

    def __enter__(self) -> StopSignals:
        self._before = {each: signal.signal(each, self._note) for each in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, _: object) -> None:
        if not self.name:
            self.name, self._first = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._first > GRACE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@dataclass
class Counters:
    """How far a training is: the stage, steps of it and of all; the best validation loss; the last steps left out."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    best: float = math.inf
    left_out: int = 0


class Training:
    """A network in training, on one of the ranks."""

    def __init__(self, config: Config, fabric: Fabric, cases: Cases, console: Console) -> None:
        self.config, self.fabric, self.console = config, fabric, console
        for note in cases.notes:
            say(console, note)
        self.crops = [TrainingCrops(cases, config, stage) for stage in range(len(config.stages))]
        self.validation = ValidationCrops(cases, config)
        torch.manual_seed(config.seed)
        network = build_network(config)
        initialise(network, config)
        # how the data were prepared is all that prediction has to know of them
        self.prepared = cases.manifest.model_copy(update={"cases": {}, "failed": {}}).model_dump_json()
        found = self._found(network)
        if not found and (path := config.network.weights):
            checkpoints.load_weights(network, checkpoints.read(path), path)
        self.network = fabric.setup_module(torch.compile(network) if config.network.compile else network)
        self.average = None
        if decay := config.optimiser.average:
            rule = get_ema_multi_avg_fn(decay)
            self.average = AveragedModel(self.network.module, multi_avg_fn=rule, use_buffers=True)
        self.criterion = build_criterion(config.loss)
        self.validation_criterion = build_criterion(config.loss.model_copy(update={"heads": None}))
        self.at, self.times = Counters(), Times(fabric.device)
        self.sums = torch.zeros(1 + len(LOSSES), device=fabric.device)  # number of samples and their losses
        self._begin_stage(0, 0)
        if found:
            self._restore(found)
        self.log = self._describe() if fabric.is_global_zero else None

    def run(self, stop: StopSignals) -> None:
        """Train until all steps are done, or until a signal."""
        while self.at.stage_step < self.stage.steps:
            batches = self._training_batches()
            while self.at.stage_step < self.stage.steps:
                with self.times["step"]:
                    self._step(batches)
                self._after_step()
                if self._any_rank(bool(stop.name)):
                    self._save(LAST)
                    self._say(f"stopped by {stop.name or 'a signal'} after step {self.at.step}")
                    return
            self._save(LAST)
            if self.at.stage + 1 < len(self.config.stages):
                self._begin_stage(self.at.stage + 1, 0)
        self._say(f"{self.config.run}: trained for {self.at.step} steps")

    def close(self) -> None:
        if self.log:
            self.log.close()

    # a step

    def _step(self, batches: Iterator[Batch]) -> None:
        """Change the weights by the gradient of the mean loss over all samples of all ranks."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.stage, self.at.stage_step)
        # what is random in a network follows from the step: a run that goes on draws what it would have drawn
        seeds = np.random.SeedSequence((self.config.seed, self.at.step, self.fabric.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        self.network.train()
        self.optimiser.zero_grad()
        losses, case_ids = list[torch.Tensor](), list[str]()
        accumulate = self.config.optimiser.accumulate
        for part in range(accumulate):
            with self.times["data"]:
                batch = _next(batches).to(self.fabric.device, non_blocking=True)
            with self.fabric.no_backward_sync(self.network, enabled=part < accumulate - 1):
                logits = self._heads(self.network, batch)
                with self.times["loss"]:
                    values, gradients = losses_and_gradients(self.criterion, logits, batch, len(batch) * accumulate)
                # its gradient at the heads is that of the losses; Fabric scales and reduces it as that of any loss
                surrogate = torch.stack([(z * g).sum() for z, g in zip(logits, gradients, strict=True)]).sum()
                self.fabric.backward(surrogate)
            losses.append(values)
            case_ids.extend(batch.case_ids)
        self._update(torch.cat(losses), case_ids, buffers)
        self.at.step += 1
        self.at.stage_step += 1

    def _heads(self, network: torch.nn.Module, batch: Batch) -> list[torch.Tensor]:
        try:
            output = network(batch.image)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            shape, name = tuple(batch.image.shape), self.config.network.name
            raise ValueError(f"network: {name} fails on a batch {shape}: {first_line(error)}") from error
        return heads(output, batch.image.shape[2:])

    def _update(self, losses: torch.Tensor, case_ids: list[str], buffers: list[torch.Tensor]) -> None:
        """Change the weights, unless the gradient is not finite."""
        clip = self.config.optimiser.clip or math.inf
        norm = self.fabric.clip_gradients(self.network, self.optimiser, max_norm=clip, error_if_nonfinite=False)
        assert norm is not None
        finite = bool(norm.isfinite())  # here the host waits for the device; the norm is the same on all ranks
        scaled = self.config.hardware.precision == "16-mixed"
        if finite or scaled:  # a loss scaler leaves out the step by itself, and lowers its scale
            self.optimiser.step()
        if finite:
            self.at.left_out = 0
            self.sums += torch.cat([self.sums.new_full((1,), len(losses)), losses.sum(0)])
            if self.average:
                self.average.update_parameters(self.network.module)
            return
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)  # running statistics of what was not finite
        self._left_out(self._culprits(losses, case_ids), scaled)

    def _culprits(self, losses: torch.Tensor, case_ids: list[str]) -> list[str]:
        """Cases of all ranks whose loss is not finite, with the parts that are not."""
        found = []
        for case, finite in zip(case_ids, losses.isfinite().tolist(), strict=True):
            if parts := [name for name, good in zip(LOSSES, finite, strict=True) if not good]:
                found.append(f"case {case} ({', '.join(parts)})")
        if self.fabric.world_size == 1:
            return found
        gathered: list[list[str]] = [[] for _ in range(self.fabric.world_size)]
        all_gather_object(gathered, found)
        return [case for cases in gathered for case in cases]

    def _left_out(self, culprits: list[str], scaled: bool) -> None:
        self.at.left_out += 1
        what = f"the loss of {', '.join(culprits)}" if culprits else "the gradient"
        problem = f"stage {self.stage.name}, step {self.at.step + 1}: {what} is not finite"
        if self.at.left_out >= PATIENCE:
            self._save(LAST)
            raise ValueError(
                f"{problem}, as in the {PATIENCE - 1} steps before, which were left out; begin another run with "
                f"network.weights={self.config.run / FOLDER / LAST}, a lower learning rate or precision 32-true"
            )
        if culprits or not scaled:
            self._say(f"warning: {problem}; the step is left out")

    # after a step

    def _after_step(self) -> None:
        step, options, last = self.at.step, self.config.logging, self.at.stage_step == self.stage.steps
        row: dict[str, float] = {}
        if step % options.every == 0 or last:
            sums = self.fabric.all_reduce(self.sums, reduce_op="sum")
            means = (sums[1:] / sums[0]).tolist()  # not numbers where all steps were left out
            self.sums.zero_()
            row = dict(zip(LOSSES, means, strict=True)) | self.times.means()
        if len(self.validation) and (step % options.validate_every == 0 or last):
            row["validation"] = self._validate()
        if self.log:
            self.log.step(step, self.stage.name)
            if row:
                rate = learning_rate(self.stage, self.at.stage_step - 1)
                self.log.row({"step": step, "stage": self.stage.name, "learning_rate": rate, **row})
        if row.get("validation", math.inf) < self.at.best:
            self.at.best = row["validation"]
            self._save(BEST)
        if step % options.checkpoint == 0:
            self._save(LAST)

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss of the final head on the validation crops; each rank takes its share of them."""
        count, rank, world = len(self.validation), self.fabric.global_rank, self.fabric.world_size
        mine = range(rank, math.ceil(count / world) * world, world)  # as many on each rank, the last one may be spare
        size = self.config.hardware.batch
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        batches = self._batches(self.validation, [[number % count for number in chunk] for chunk in chunks])
        network = self.average.module if self.average else self.network
        network.eval()
        sums = torch.zeros(2, device=self.fabric.device)
        for chunk in chunks:
            batch = _next(batches).to(self.fabric.device, non_blocking=True)
            with self.fabric.autocast():
                logits = self._heads(network, batch)[0].float()
            for index, number in enumerate(chunk):
                if number < count:
                    one = logits[index : index + 1]
                    loss = sample_losses(self.validation_criterion, [one], batch, index)["total"]
                    sums += torch.stack([loss, torch.ones_like(loss)])
        total, crops = self.fabric.all_reduce(sums, reduce_op="sum").tolist()
        return total / crops

    def _any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank: what all have to do after the same step."""
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="max"))

    # stages and batches

    def _begin_stage(self, stage: int, step: int) -> None:
        self.at.stage, self.at.stage_step, self.stage = stage, step, self.config.stages[stage]
        optimiser = build_optimiser(self.config.optimiser, self.network, self.stage)
        self.optimiser = self.fabric.setup_optimizers(optimiser)

    def _training_batches(self) -> Iterator[Batch]:
        """The rest of the stage's batches of this rank."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        size, accumulate = self.config.hardware.batch, self.config.optimiser.accumulate
        parts = range(self.at.stage_step * accumulate, self.stage.steps * accumulate)
        starts = ((part * world + rank) * size for part in parts)
        return self._batches(self.crops[self.at.stage], (range(start, start + size) for start in starts))

    def _batches(self, crops: Dataset[Sample], numbers: Iterable[Iterable[int]]) -> Iterator[Batch]:
        """Batches of the crops with the numbers given."""
        loader = DataLoader(
            crops,
            batch_sampler=numbers,  # type: ignore[arg-type]
            num_workers=self.config.hardware.workers,
            collate_fn=collate,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=_start_worker,
        )
        return iter(loader)

    # what is kept

    def _found(self, network: torch.nn.Module) -> dict[str, Any] | None:
        """The last checkpoint of the run, if there is one; that of another run is refused."""
        path = self.config.run / FOLDER / LAST
        if not path.is_file():
            return None
        found = checkpoints.read(path)
        checkpoints.check_config(self.config, found, path)
        checkpoints.check_weights(network, found["network"], path)
        if found["preprocessing"] != self.prepared:
            say(self.console, "the data are not prepared as they were before: the network goes on with others")
        return found

    def _restore(self, found: dict[str, Any]) -> None:
        self.at = Counters(**found["counters"])
        stage, step, stages = self.at.stage, self.at.stage_step, self.config.stages
        if step >= stages[stage].steps and stage + 1 < len(stages):
            stage, step = stage + 1, 0
        self._begin_stage(stage, step)
        state = self._state()
        if not step:
            del state["optimiser"]  # that of the stage before
        self.fabric.load(self.config.run / FOLDER / LAST, state)
        if self.fabric.is_global_zero:
            self.sums.copy_(found["sums"])

    def _state(self) -> dict[str, Any]:
        average = {"average": self.average} if self.average else {}
        precision = self.fabric.strategy.precision
        return {"network": self.network, "optimiser": self.optimiser, "precision": precision, **average}

    def _save(self, name: str) -> None:
        sums = self.fabric.all_reduce(self.sums.clone(), reduce_op="sum")
        state = {**self._state(), "counters": asdict(self.at), "sums": sums.cpu(), "preprocessing": self.prepared}
        checkpoints.save(self.fabric, self.config.run / FOLDER / name, self.config, state)

    def _describe(self) -> Log:
        """Write what the run is made of."""
        versions = json.dumps(checkpoints.versions(), indent=1)
        for name, text in (("config.yaml", to_yaml(self.config)), ("versions.json", versions)):
            write_text(self.config.run / name, text)
        log = Log(self.config, self.console, self.at.step)
        if self.at.step:
            log.say(f"goes on after step {self.at.step}")
        return log

    def _say(self, text: str) -> None:
        if self.log:
            self.log.say(text)


def build_optimiser(options: Optimiser, network: torch.nn.Module, stage: Stage) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), stage.learning_rate, options.weight_decay
    if options.name == "SGD":
        momentum = options.momentum
        return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def learning_rate(stage: Stage, step: int) -> float:
    """Of a step of a stage, counted from 0: a linear warm-up, then the stage's schedule, to 0 behind the last step."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / (stage.warmup + 1)
    left = 1 - (step - stage.warmup) / (stage.steps - stage.warmup)
    shares = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "poly": left**0.9, "constant": 1.0}
    return stage.learning_rate * shares[stage.schedule]


def _next(batches: Iterator[Batch]) -> Batch:
    """The next batch, or one sentence on why there is none."""
    try:
        return next(batches)
    except Exception as error:  # of whatever makes crops
        raise _data_error(error) from error


def _data_error(error: Exception) -> ValueError:
    if isinstance(error, ConnectionError | EOFError) or "DataLoader worker (pid" in str(error):
        return ValueError("data: a process that loads data was killed; for want of memory? try fewer hardware.workers")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"data: {lines[-1].removeprefix('ValueError: ')}")  # from a worker, the text is a traceback


def _start_worker(_: int) -> None:
    """A signal to all processes, to stop them, is the trainer's to heed, who needs its workers."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGTERM, _heed_the_next)


def _heed_the_next(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)
