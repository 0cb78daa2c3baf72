# SPDX-License-Identifier: Apache-2.0
"""A batch of every kind of sample, and a brute-force twin of isolate_tumor and ball_loss, for the tests of compat."""

import math

import numpy as np
import torch
import torch.nn.functional as F

CLASSES = ["kidney_lesion_1", "kidney_lesion_2", "liver", "liver_lesion"]


def mixed_batch(seed=0):
    """Two liver tumours; none; a kidney tumour larger than its segment; labels and unknown voxels elsewhere."""
    shape = (17, 20, 18)
    out = smooth_noise(3, 4, *shape, seed=seed) - 1
    labels, unknown, segment = (torch.zeros_like(out) for _ in range(3))
    segment[0, 3, 3:13, 4:15, 5:16] = segment[2, 1, 2:6, 2:6, 2:6] = 1
    unknown += segment
    unknown[1, 0, 10:] = 1
    labels[0, 2, 8:, 8:] = labels[1, 3, :2, :2] = 1
    volumes, diameters = torch.zeros(3, 10), torch.zeros(3, 10, 3)
    for b, t, edges in ((0, 0, (5.0, 4.0, 4.5)), (0, 1, (9.0, 8.0, 7.0)), (2, 0, (7.0, 7.0, 6.0))):
        diameters[b, t] = torch.tensor(edges)
        volumes[b, t] = math.pi / 6 * math.prod(edges)
    return out, labels, unknown, segment, volumes, diameters


def smooth_noise(*shape, seed=0):
    """Noise with blobs of about five voxels."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool3d(noise.flatten(0, -4)[:, None], 5, 1, 2).reshape(shape) * 8


# a brute-force twin, written from the description: dense convolutions, one sample and one tumour at a time


def brute_ball(diameter, sigma=None):
    k = math.ceil(diameter) | 1
    z, y, x = torch.meshgrid(*[torch.arange(k, dtype=torch.float64) - k // 2] * 3, indexing="ij")
    squared = z**2 + y**2 + x**2
    ball = (squared <= (k / 2) ** 2).double()
    return (ball if sigma is None else ball * torch.exp(-squared / (2 * (sigma * k / 2) ** 2))).float()


def brute_conv(x, kernel):
    return F.conv3d(x[None, None], kernel[None, None], padding=kernel.shape[0] // 2)[0, 0]


def brute_dilate(mask, size):
    size |= 1
    full, rest = divmod((size - 1) // 2, 3)
    for edge in [size] if size <= 7 else [7] * full + [2 * rest + 1] * (rest > 0):
        planes = [(brute_conv(plane, brute_ball(edge)) > 0.5).float() for plane in mask.reshape(-1, *mask.shape[-3:])]
        mask = torch.stack(planes).reshape(mask.shape)
    return mask


def brute_isolate(x, diameter, sigma, volume, diameter_margin, volume_margin):
    d = int(np.round(diameter)) | 1
    n, ball = int(np.round(volume)), int(brute_ball(d).sum())
    n = ball - 1 if ball > n else n
    centre = np.unravel_index(int(brute_conv(x, brute_ball(d, sigma)).argmax()), x.shape)
    point = torch.zeros_like(x)
    point[centre] = 1

    def insert(size):
        return brute_conv(point, brute_ball(size * (1 + diameter_margin))) > 0.5

    inside = insert(d)
    while inside.sum() < n:
        grown = int(np.round(1.1 * d))
        grown = (grown + (grown == d)) | 1
        if grown >= max(x.shape):
            break
        d, inside = grown, insert(grown)
    values = (x * inside).flatten()
    body = min(values.numel() - 1, n)
    core = max(int(body * (1 - min(0.5, volume_margin))), min(100, n))
    ring = min(values.numel() - 1, int(n * (1 + volume_margin)))
    masks = []
    for count in (body, core, ring):
        mask = torch.zeros_like(values)
        mask[values.topk(count).indices] = 1
        masks.append(mask.reshape(x.shape) * inside)
    for _ in range(6):
        if masks[0].sum() < 0.7 * n:
            masks = [brute_dilate(mask, 7) * inside for mask in masks]
    return masks


def brute_sample(logits, label, unknown, region, tumours, options):
    """BCE and Dice of one sample: merged logits, labels, unknown voxels and dilated segment (C', H, W, D)."""
    penalised = (((1 - unknown) * (1 - label) + region) > 0).float()
    active = region.flatten(1).any(1).nonzero()
    if not len(active) or not tumours:
        losses = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none") * penalised
        return losses.mean(), torch.ones(())
    c = int(active[0])
    probability = logits[c].detach().sigmoid() * region[c]
    foreground, tolerated = torch.zeros_like(probability), torch.zeros_like(probability)
    for diameter, volume in sorted(tumours, key=lambda tumour: -tumour[1]):
        sizes = (3 if diameter <= 1 else diameter, options["sigma"], 9 if volume <= 1 else volume)
        mid, small, big = brute_isolate(probability, *sizes, options["diameter_margin"], options["volume_margin"])
        probability = probability * (1 - mid)
        foreground, tolerated = foreground.maximum(small), tolerated.maximum(big)
    known = penalised[c] * (1 - brute_dilate(tolerated, options["background"]) * (1 - foreground))
    losses = F.binary_cross_entropy_with_logits(logits[c], foreground, reduction="none") * known
    count = int(foreground.sum())
    rank = (logits[c].sigmoid() * foreground + foreground).flatten().argsort(descending=True).argsort().double()
    weights = 0.5 ** (rank / count) * (rank < count)
    weights = (weights / weights.sum() * count).float().reshape(foreground.shape)
    p = logits[c].sigmoid() * known
    tp, fp, fn = (p * foreground * known).sum(), (p * (1 - foreground)).sum(), ((1 - p) * foreground * known).sum()
    alpha = (fp / (fp + fn + 1e-5)).clamp(0.2, 0.8)
    bce = (losses * torch.where(foreground > 0, weights, 1)).sum() / foreground.numel()
    return bce, 1 - tp / (tp + alpha * fp + (1 - alpha) * fn + 1e-5)
