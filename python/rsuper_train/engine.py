# SPDX-License-Identifier: Apache-2.0
"""Training: stages of steps, each on the mean loss of its samples; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import FSDPStrategy
from rich.console import Console
from torch.distributed import all_gather_object
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from rsuper_kernels import ReportSupervisedLoss
from rsuper_train import checkpoint as checkpoints
from rsuper_train.cases import Cases
from rsuper_train.checkpoint import BEST, FOLDER, LAST
from rsuper_train.config import Config, Hardware, Loss, Optimiser, Stage, to_yaml
from rsuper_train.files import write_atomically
from rsuper_train.logs import PARTS, Log, Times
from rsuper_train.networks import build_network, heads, initialise
from rsuper_train.samples import Batch, TrainingCrops, ValidationCrops, collate

PATIENCE = 10
"""Steps in a row without a finite loss after which training gives up."""


def train(config: Config, console: Console) -> Path:
    """Train a network; a run that was interrupted goes on from its last checkpoint.

    SIGTERM and SIGINT end the step, write a checkpoint and return; a second one ends the process at once.

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
    with _stop_signals() as stop:
        training = Training(config, fabric, Cases(config.data), console, stop)
        try:
            training.run()
        finally:
            training.close()
    return config.run


def launch(hardware: Hardware) -> Fabric:
    """Lightning Fabric on the hardware asked for, or on what torchrun says."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    devices, nodes = hardware.devices, hardware.nodes
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy: Any = hardware.strategy
    if strategy == "fsdp":
        strategy = FSDPStrategy(state_dict_type="full")
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


@dataclass
class Counters:
    """How far a training is. `bad` counts the last steps in a row whose loss was not finite."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    best: float = math.inf
    bad: int = 0


@dataclass
class Stop:
    """The signal that asked for an end, if any."""

    signal: str = ""


class Training:
    """A network in training on this rank."""

    def __init__(self, config: Config, fabric: Fabric, cases: Cases, console: Console, stop: Stop) -> None:
        self.config, self.fabric, self.cases, self.console, self.stop = config, fabric, cases, console, stop
        self.at = Counters()
        torch.manual_seed(config.seed)
        network = build_network(config)
        initialise(network, config)
        found = self._found(network)
        if not found and (path := config.network.weights):
            checkpoints.load_weights(network, checkpoints.read(path), path)
        self.network = fabric.setup_module(torch.compile(network) if config.network.compile else network)
        decay = config.optimiser.average
        self.average = (
            AveragedModel(self.network.module, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            if decay
            else None
        )
        self.criterion = build_criterion(config.loss)
        self.validation_criterion = build_criterion(config.loss.model_copy(update={"heads": None}))
        self.sums = torch.zeros(2 + len(PARTS), device=fabric.device)  # of samples, their totals and their parts
        self.times = Times(fabric.device)
        self.validation = ValidationCrops(cases, config)
        self._begin_stage()
        if found:
            self._restore(found)
        self.log: Log | None = None
        if fabric.is_global_zero:
            self._describe()
            self.log = Log(config, console, self.at.step)

    def run(self) -> None:
        """Train until all steps are done, or until a signal."""
        if self.at.step and self.at.stage_step >= self.stage.steps:
            self._say(f"{self.config.run} is trained already, for {self.at.step} steps")
            return
        while self.at.stage_step < self.stage.steps:
            batches = iter(self._loader())
            while self.at.stage_step < self.stage.steps:
                with self.times["step"]:
                    self._step(batches)
                self._after_step()
                if self._stopping():
                    self._save(LAST)
                    signal_ = self.stop.signal or "a signal"
                    self._say(f"stopped by {signal_} after step {self.at.step}; the same command goes on")
                    return
            if self.at.stage + 1 < len(self.config.stages):
                self.at.stage, self.at.stage_step = self.at.stage + 1, 0
                self._begin_stage()
        self._save(LAST)

    def close(self) -> None:
        if self.log:
            self.log.close()

    # a step

    def _step(self, batches: Iterator[Batch]) -> None:
        """Change the weights by the gradient of the mean loss over all samples of all ranks."""
        accumulate = self.config.optimiser.accumulate
        rate = learning_rate(self.stage, self.at.stage_step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # what is random in a network follows from the step, so that a run that goes on draws what it would have drawn
        seeds = np.random.SeedSequence((self.config.seed, self.at.step, self.fabric.global_rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        self.network.train()
        self.optimiser.zero_grad()
        seen, values = [], []
        for micro in range(accumulate):
            with self.times["data"]:
                batch = _next(batches).to(self.fabric.device, non_blocking=True)
            with self.fabric.no_backward_sync(self.network, enabled=micro < accumulate - 1):
                outputs = heads(self.network(batch.image), batch.image.shape[2:])
                with self.times["loss"]:
                    gradients, losses = self._losses(outputs, batch, len(batch) * accumulate)
                # its gradient at the heads is that of the losses; Fabric scales and reduces as for any loss
                surrogate = torch.stack([(h * g).sum() for h, g in zip(outputs, gradients, strict=True)]).sum()
                self.fabric.backward(surrogate)
            seen.append(batch.case_ids)
            values.append(losses)
        self._update(torch.cat(values), [case for ids in seen for case in ids], buffers)
        self.at.step += 1
        self.at.stage_step += 1

    def _losses(self, outputs: list[torch.Tensor], batch: Batch, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Gradients of the mean loss over `count` samples at each head, and each sample's total and parts (B, 6).

        The gradient of a loss that is not finite is NaN, wherever the loss comes from: so all ranks learn of it.
        """
        gradients = [torch.zeros_like(logits, dtype=torch.float32) for logits in outputs]
        rows = []
        for index in range(len(batch)):
            leaves = [logits[index : index + 1].detach().float().requires_grad_() for logits in outputs]
            losses = sample_losses(self.criterion, leaves, batch, index)
            total = losses["total"]
            if total.requires_grad:
                total.backward()
            share = torch.where(total.detach().isfinite(), 1 / count, math.nan)
            for gradient, leaf in zip(gradients, leaves, strict=True):
                if leaf.grad is not None:
                    torch.mul(leaf.grad[0], share, out=gradient[index])
            rows.append(torch.stack([losses.get(name, total.new_zeros(())).detach() for name in ("total", *PARTS)]))
        return gradients, torch.stack(rows)

    def _update(self, losses: torch.Tensor, case_ids: list[str], buffers: list[torch.Tensor]) -> None:
        """Take the step, unless its gradient is not finite."""
        norm = self.fabric.clip_gradients(
            self.network, self.optimiser, max_norm=self.config.optimiser.clip or math.inf, error_if_nonfinite=False
        )
        # the one place where the host waits for the device; the norm is the same on all ranks
        finite = bool(norm.isfinite())  # type: ignore[union-attr]
        scaled = self.config.hardware.precision == "16-mixed"
        if finite or scaled:  # a scaler leaves out a step by itself, and lowers its scale
            self.optimiser.step()
        if finite:
            self.at.bad = 0
            self.sums += torch.cat([self.sums.new_full((1,), len(losses)), losses.sum(0)])
            if self.average:
                self.average.update_parameters(self.network.module)
            return
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)  # running statistics of activations that were not finite
        culprits = self._culprits(losses, case_ids)
        if culprits or not scaled:
            self._skipped(culprits or f"the gradient of the network, on cases {', '.join(case_ids)}")

    def _culprits(self, losses: torch.Tensor, case_ids: list[str]) -> str:
        """The samples of all ranks whose loss is not finite, and which part of it."""
        names = ("total", *PARTS)
        found = []
        for case, finite in zip(case_ids, losses.isfinite().tolist(), strict=True):
            if not all(finite):
                parts = [name for name, good in zip(names, finite, strict=True) if not good and name != "total"]
                found.append(f"{', '.join(parts) or 'total'} of case {case}")
        everyone = [found]
        if self.fabric.world_size > 1:
            everyone = [[] for _ in range(self.fabric.world_size)]
            all_gather_object(everyone, found)
        return "; ".join(text for texts in everyone for text in texts)

    def _skipped(self, culprits: str) -> None:
        self.at.bad += 1
        where = f"stage {self.stage.name}, step {self.at.step + 1}: not finite: {culprits}"
        if self.at.bad < PATIENCE:
            self._say(f"warning: {where}; the step is left out")
            return
        self._save(LAST)
        raise ValueError(
            f"{where}; so were the {PATIENCE - 1} steps before; the weights in {self.config.run / FOLDER / LAST} are "
            "those before them: try a lower learning rate, or precision 32-true"
        )

    # between steps

    def _after_step(self) -> None:
        logging_, step = self.config.logging, self.at.step
        last = self.at.stage_step == self.stage.steps
        row: dict[str, Any] = {}
        if step % logging_.every == 0 or last:
            row = self._means()
        if len(self.validation) and (step % logging_.validate_every == 0 or last):
            row["validation"] = self._validate()
        if self.log:
            self.log.step(step, self.stage.name)
            if row:
                rate = learning_rate(self.stage, self.at.stage_step - 1)
                self.log.row({"step": step, "stage": self.stage.name, "learning_rate": rate, **row})
        if row.get("validation", math.inf) < self.at.best:
            self.at.best = row["validation"]
            self._save(BEST)
        if step % logging_.checkpoint == 0:
            self._save(LAST)

    def _means(self) -> dict[str, float]:
        """Mean losses of the samples since the last call, over all ranks; mean seconds of a step."""
        count, *sums = self.fabric.all_reduce(self.sums, reduce_op="sum").tolist()
        self.sums.zero_()
        return dict(zip(("total", *PARTS), (value / max(count, 1) for value in sums), strict=True)) | self.times.means()

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss of the final head on the validation crops; each rank takes its share of them."""
        count, rank, world = len(self.validation), self.fabric.global_rank, self.fabric.world_size
        mine = range(rank, math.ceil(count / world) * world, world)  # as many on each rank: the last ones may be spare
        network = self.average.module if self.average else self.network
        network.eval()
        sums, place = torch.zeros(2, device=self.fabric.device), 0
        batches = iter(self._load(self.validation, _chunks([n % count for n in mine], self.config.hardware.batch)))
        for _ in range(math.ceil(len(mine) / self.config.hardware.batch)):
            batch = _next(batches).to(self.fabric.device, non_blocking=True)
            with self.fabric.autocast():
                logits = heads(network(batch.image), batch.image.shape[2:])[0].float()
            for index in range(len(batch)):
                loss = sample_losses(self.validation_criterion, [logits[index : index + 1]], batch, index)["total"]
                sums += torch.stack([loss, torch.ones_like(loss)]) * (mine[place + index] < count)
            place += len(batch)
        total, number = self.fabric.all_reduce(sums, reduce_op="sum").tolist()
        return total / number

    def _stopping(self) -> bool:
        """Whether any rank was asked to stop, so that all do after the same step."""
        asked = bool(self.stop.signal)
        if self.fabric.world_size == 1:
            return asked
        return bool(self.fabric.all_reduce(torch.tensor(float(asked), device=self.fabric.device), reduce_op="max"))

    # stages, and what is kept

    def _begin_stage(self) -> None:
        self.stage = self.config.stages[self.at.stage]
        optimiser = build_optimiser(self.config.optimiser, self.network, self.stage)
        self.optimiser = self.fabric.setup_optimizers(optimiser)

    def _loader(self) -> DataLoader[Batch]:
        """The rest of the stage's batches of this rank."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        size, accumulate = self.config.hardware.batch, self.config.optimiser.accumulate
        micros = range(self.at.stage_step * accumulate, self.stage.steps * accumulate)
        starts = ((micro * world + rank) * size for micro in micros)
        numbers = (list(range(start, start + size)) for start in starts)
        return self._load(TrainingCrops(self.cases, self.config, self.at.stage), numbers)

    def _load(self, dataset: Any, numbers: Any) -> DataLoader[Batch]:
        """Batches of the samples with the numbers, which are lists."""
        return DataLoader(
            dataset,
            batch_sampler=numbers,
            num_workers=self.config.hardware.workers,
            collate_fn=collate,
            pin_memory=self.fabric.device.type == "cuda",
            worker_init_fn=_start_worker,
        )

    def _found(self, network: torch.nn.Module) -> dict[str, Any] | None:
        """The last checkpoint of the run, if there is one; that of another run is refused."""
        path = self.config.run / FOLDER / LAST
        if not path.is_file():
            return None
        found = checkpoints.read(path)
        checkpoints.check_config(self.config, found, path)
        checkpoints.check_weights(network, found["network"], path)
        return found

    def _restore(self, found: dict[str, Any]) -> None:
        self.at = Counters(**found["counters"])
        objects = self._objects()
        stages = self.config.stages
        if self.at.stage_step >= stages[self.at.stage].steps and self.at.stage + 1 < len(stages):
            self.at.stage, self.at.stage_step = self.at.stage + 1, 0
        self._begin_stage()
        if self.at.stage_step:
            objects["optimiser"] = self.optimiser
        self.fabric.load(self.config.run / FOLDER / LAST, objects)
        if self.fabric.is_global_zero:
            self.sums.copy_(found["sums"])

    def _objects(self) -> dict[str, Any]:
        """What has a state, besides the optimiser."""
        average = {"average": self.average} if self.average else {}
        return {"network": self.network, "precision": self.fabric.strategy.precision, **average}

    def _save(self, name: str) -> None:
        preprocessing = self.cases.manifest.model_copy(update={"cases": {}, "failed": {}})
        state = {
            **self._objects(),
            "preprocessing": preprocessing.model_dump_json(),
            "optimiser": self.optimiser,
            "counters": asdict(self.at),
            "sums": self.fabric.all_reduce(self.sums.clone(), reduce_op="sum").cpu(),
        }
        checkpoints.save(self.fabric, self.config.run / FOLDER / name, self.config, state)

    def _describe(self) -> None:
        """Write what the run is made of, and tell what should be known about its data."""
        texts = {
            "config.yaml": to_yaml(self.config),
            "versions.json": json.dumps(checkpoints.versions(), indent=1),
        }
        for name, text in texts.items():
            write_atomically(self.config.run / name, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        if self.at.step:
            self._say(f"goes on after step {self.at.step}")
        for note in self.cases.notes:
            self._say(note)

    def _say(self, text: str) -> None:
        if self.log:
            self.log.say(text)
        else:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def build_criterion(loss: Loss) -> ReportSupervisedLoss:
    """The losses of a configuration."""
    return ReportSupervisedLoss(
        loss.build_recipe(),
        head_weights=loss.heads,
        segmentation_weight=loss.segmentation,
        report_weight=loss.report,
        volume_weight=loss.volume,
        ball_bce_weight=loss.ball_bce,
        ball_dice_weight=loss.ball_dice,
        attenuation_weight=loss.attenuation,
    )


def sample_losses(
    criterion: ReportSupervisedLoss, logits: list[torch.Tensor], batch: Batch, index: int
) -> dict[str, torch.Tensor]:
    """The losses of one sample of a batch, of which the logits (1, C, D, H, W) of each head are given.

    Without a plane that is annotated per voxel there is no segmentation term: what a report says of a voxel, the ball
    loss says too.
    """
    one, findings = slice(index, index + 1), batch.findings[index]
    annotated = any(findings.status(0, channel) == "annotated" for channel in range(findings.channel_count))
    return criterion(
        logits,
        findings,
        batch.regions[one],
        batch.spacing[index],
        ct=batch.ct[one],
        labels=batch.labels[one] if annotated else None,
        unknown=None if batch.unknown is None else batch.unknown[one],
    )


def build_optimiser(options: Optimiser, network: torch.nn.Module, stage: Stage) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), stage.learning_rate, options.weight_decay
    if options.name == "SGD":
        momentum = options.momentum
        return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def learning_rate(stage: Stage, step: int) -> float:
    """Of a step of a stage, counted from 0: a linear warm-up, then the stage's schedule down to 0 behind its end."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / (stage.warmup + 1)
    left = 1 - (step - stage.warmup) / max(stage.steps - stage.warmup, 1)
    shares = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "poly": left**0.9, "constant": 1.0}
    return stage.learning_rate * shares[stage.schedule]


def _chunks(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _next(batches: Iterator[Batch]) -> Batch:
    """The next batch, or one sentence on why there is none."""
    try:
        return next(batches)
    except Exception as error:  # of whatever reads and changes crops, with the worker's traceback as its text
        raise ValueError(f"data: {str(error).strip().splitlines()[-1]}") from error


def _start_worker(_: int) -> None:
    """One thread a worker; an interrupt from the keyboard is the trainer's to handle."""
    blosc2.set_nthreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or SIGINT, and leave a second one its default effect."""
    stop, signals = Stop(), (signal.SIGTERM, signal.SIGINT)

    def note(number: int, _: Any) -> None:
        stop.signal = signal.Signals(number).name
        for each in signals:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, note) for each in signals}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
