# SPDX-License-Identifier: Apache-2.0
"""Training from reports alone, and prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.nets import UNet
from scipy import ndimage
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsuper_kernels import Recipe, ReportSupervisedLoss, get_recipe, pseudo_masks
from rsuper_train.data import Sample, augment, collate


@dataclass(frozen=True)
class StepTime:
    """Wall time of a training step and, of that, of its losses, forward and backward; seconds."""

    step: float
    losses: float


LogStep = Callable[[int, dict[str, float], StepTime], None]


@dataclass(frozen=True)
class Settings:
    """How the demo's network is trained. Lengths in mm, attenuation in HU."""

    steps: int = 400
    batch_size: int = 2
    learning_rate: float = 8e-3
    warmup_steps: int = 30
    weight_decay: float = 1e-4
    average_decay: float = 0.98
    channels: tuple[int, ...] = (8, 16, 32)
    norm: str = "batch"
    initial_bias: float = -4.0
    region_margin: float = 0.0
    volume_weight: float = 1.0
    bce_weight: float = 1.0
    dice_weight: float = 1.0
    attenuation_weight: float = 1.0
    attenuation_delta: float = 25.0
    attenuation_scope: str = "group"

    @property
    def recipe(self) -> Recipe:
        """Options of the losses. The organs' outlines are known here, so the region needs no margin."""
        return get_recipe(
            "paper",
            region_margin=self.region_margin,
            attenuation_delta=self.attenuation_delta,
            attenuation_scope=self.attenuation_scope,
        )


def build_network(settings: Settings, seed: int) -> nn.Module:
    """A small MONAI U-Net: (B, 2, D, H, W) -> logits (B, 1, D, H, W); starts out predicting almost no tumour."""
    torch.manual_seed(seed)
    network = UNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=1,
        channels=settings.channels,
        strides=(2,) * (len(settings.channels) - 1),
        num_res_units=0,
        norm=settings.norm,
    )
    nn.init.constant_(list(network.parameters())[-1], settings.initial_bias)  # bias of the last convolution
    return network


def build_loss(settings: Settings) -> ReportSupervisedLoss:
    """The report losses: volume, ball and attenuation; no voxel labels anywhere."""
    return ReportSupervisedLoss(
        settings.recipe,
        report_weight=1.0,
        volume_weight=settings.volume_weight,
        ball_bce_weight=settings.bce_weight,
        ball_dice_weight=settings.dice_weight,
        attenuation_weight=settings.attenuation_weight,
    )


def train(
    network: nn.Module, samples: Sequence[Sample], settings: Settings, seed: int, log: LogStep | None = None
) -> nn.Module:
    """Train on reports; returns the running average of the weights over the last steps.

    Args:
        network: changed in place.
        samples: training cases; they hold CT, organ labels and findings, no lesion mask.
        log: called after each step with the step's number, its losses and its time.
    """
    rng = np.random.default_rng(seed)
    criterion = build_loss(settings)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay), use_buffers=True)
    batches = _batches(len(samples), min(settings.batch_size, len(samples)), rng)
    network.train()
    for step in range(settings.steps):
        start = time.perf_counter()
        batch = augment(collate([samples[i] for i in next(batches)]), rng)
        logits = network(batch.image)
        # the losses' own backward ends at the logits, so that its time is known
        head, before = logits.detach().requires_grad_(), time.perf_counter()
        losses = criterion(head, batch.findings, batch.labels, batch.spacing, ct=batch.ct)
        losses["total"].backward()
        loss_time = time.perf_counter() - before
        optimizer.zero_grad()
        logits.backward(head.grad)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        if log:
            values = {name: float(value.detach()) for name, value in losses.items()}
            log(step, values, StepTime(time.perf_counter() - start, loss_time))
    return averaged.module.eval()


def _rate(step: int, settings: Settings) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Endless shuffled batches; every sample is seen once before any is seen again."""
    waiting: list[int] = []
    while True:
        if len(waiting) < size:
            waiting += rng.permutation(count).tolist()
        batch, waiting = waiting[:size], waiting[size:]
        yield batch


@torch.no_grad()
def predict(network: nn.Module, sample: Sample) -> np.ndarray:
    """Tumour probability on the sample's window, (D, H, W), mean over four in-plane flips; 0 outside the organs."""
    network.eval()
    image = sample.image[None]
    flips: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
    mean = torch.stack([network(image.flip(axes)).flip(axes).sigmoid() for axes in flips]).mean(0)
    return (mean[0, 0] * (sample.labels > 0)).numpy()


def connected(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Components of a mask, 26-neighbourhood: numbered voxels (0 = none) and their number."""
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))


def segment(probability: np.ndarray, threshold: float, smallest_voxels: int) -> np.ndarray:
    """Voxels above the threshold in components of at least `smallest_voxels`, bool (D, H, W)."""
    components, count = connected(probability > threshold)
    kept = np.bincount(components.ravel(), minlength=count + 1) >= smallest_voxels
    kept[0] = False
    return kept[components]


@torch.no_grad()
def ball_mask(network: nn.Module, sample: Sample, settings: Settings) -> np.ndarray:
    """Where the ball loss places the tumours of the sample's report, bool (D, H, W); for pictures."""
    network.eval()
    logits = network(sample.image[None])
    targets = pseudo_masks(logits, sample.findings, sample.labels[None], sample.spacing, recipe=settings.recipe)
    return targets.body.any(0).numpy()
