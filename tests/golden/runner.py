# SPDX-License-Identifier: Apache-2.0
"""Runs one golden case through `rsuper_kernels.compat` and compares the result with what the public function returned.

Each adapter below takes the manifest's arguments (with the case's id, diagnostics and "tie" added) and the arrays of a
case, and yields checks. Where an error is expected, ValueError must be raised.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from rsuper_kernels import compat

from .checks import (
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    TIE_LOSS_TOLERANCE,
    Arrays,
    Check,
    gradient_check,
    loss_check,
    mask_check,
    tie_checks,
)
from .io import GoldenError, read_arrays


@dataclass(frozen=True)
class Outcome:
    """Result of one case: status is "pass", "fail" or "tie" (a tie-dependent case within its looser comparison)."""

    case: str
    function: str
    status: str
    worst: Check | None = None
    message: str = ""

    def __str__(self) -> str:
        """One line: id, function, worst error with its tolerance, status."""
        detail = f"{self.worst.name} {self.worst.error:.2e} (tol {self.worst.tolerance:.0e})" if self.worst else ""
        return f"{self.status:4}  {self.case:38} {self.function:33} {detail}{self.message}".rstrip()


def run_case(folder: str | Path, case: dict) -> Outcome:
    """Run the manifest entry `case` of `folder`; whatever goes wrong is in the outcome."""
    name, function, expected_error = case["id"], case["function"], case.get("expected_error")
    adapter = ADAPTERS.get(function)
    if adapter is None:
        return Outcome(name, function, "fail", message=f"no adapter for the function {function!r}")
    tie = bool(case.get("diagnostics", {}).get("tie_dependent")) or "TIE-DEPENDENT" in case.get("notes", "")
    try:
        arrays = read_arrays(Path(folder) / case["file"])
        context = dict(case["args"], tie=tie, id=name, diagnostics=case.get("diagnostics", {}))
        checks = list(adapter(context, arrays))
    except GoldenError as error:
        return Outcome(name, function, "fail", message=str(error))
    except ValueError as error:
        if expected_error:
            return Outcome(name, function, "pass", message=f"ValueError as expected: {_shorten(error)}")
        return Outcome(name, function, "fail", message=f"unexpected ValueError: {_shorten(error)}")
    except Exception as error:  # the remaining cases still have to run
        return Outcome(name, function, "fail", message=f"{type(error).__name__}: {_shorten(error)}")
    if expected_error:
        kind = expected_error["type"]
        return Outcome(
            name, function, "fail", message=f"ValueError expected ({kind} in the public code), nothing raised"
        )
    if not checks:
        return Outcome(name, function, "fail", message="nothing to compare")
    worst = max(checks, key=lambda check: check.badness if check.badness == check.badness else float("inf"))
    status = "fail" if not all(check.passed for check in checks) else "tie" if tie else "pass"
    return Outcome(name, function, status, worst)


def _shorten(error: Exception, limit: int = 100) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _tensor(arrays: Arrays, name: str, grad: bool = False) -> torch.Tensor | None:
    if name not in arrays:
        return None
    tensor = torch.from_numpy(np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape))
    return tensor.requires_grad_() if grad else tensor


def _options(args: dict) -> dict:
    """The arguments that go to the function as they are."""
    others = ("tie", "id", "diagnostics", "classes", "class_weights")
    return {name: value for name, value in args.items() if name not in others}


def _weights(args: dict, arrays: Arrays) -> torch.Tensor | None:
    return _tensor(arrays, "in_class_weights") if args.get("class_weights") else None


# structuring elements and masks


def _create_ball_kernel(args: dict, arrays: Arrays) -> Iterator[Check]:
    for row in json.loads(str(arrays["rows_json"])):
        yield from _kernel_row_checks(row)
    for name, stored in arrays.items():
        if name.startswith(("out_binary_", "out_gauss_")):
            kernel = compat.create_ball_kernel(int(name.rsplit("_", 1)[1]), gaussian="gauss" in name)
            if "gauss" in name:
                yield loss_check(name, kernel, stored, 2e-6, floor=1e-30)
            else:
                yield mask_check(name, kernel, stored)


def _kernel_row_checks(row: dict) -> Iterator[Check]:
    kernel = compat.create_ball_kernel(row["diameter"], row["gaussian"], row["gaussian_std"]).numpy()
    name = f"d={row['diameter']:g}, gaussian={row['gaussian']}"
    size = kernel.shape[0]
    profile = kernel[size // 2, size // 2, size // 2 :]
    mask_hash = hashlib.sha256((kernel > 0).astype(np.uint8).tobytes()).hexdigest()
    same = (
        kernel.shape == (row["size"],) * 3
        and int((kernel > 0).sum()) == row["nonzero"]
        and mask_hash == row["mask_sha256_u8"]
    )
    yield Check(f"{name}: support", float(not same), 0)
    if row["gaussian"]:
        ours = [kernel.sum(dtype=np.float64), profile[0], kernel[kernel > 0].min(), *profile]
        stored = [row["sum"], row["centre"], row["min_positive"], *row["axis_profile"]]
        yield loss_check(f"{name}: values", ours, np.array(stored), 2e-6, floor=1e-30)
    else:
        yield Check(f"{name}: hash", float(hashlib.sha256(kernel.tobytes()).hexdigest() != row["sha256_f32"]), 0)


def _dilate_volume(args: dict, arrays: Arrays) -> Iterator[Check]:
    volume = _tensor(arrays, "in_volume")
    if "out" in arrays:
        yield mask_check("out", compat.dilate_volume(volume, args["kernel_size"]), arrays["out"])
        return
    variants = {
        "3d": volume,
        "4d": volume[None],
        "nonbinary": _tensor(arrays, "in_nonbinary"),
        "fpr2": volume,
        "fpr5": volume,
    }
    for (name, x), size, radius in zip(variants.items(), args["kernel_size"], args["full_pass_radius"], strict=True):
        stored = arrays[f"out_{name}"]
        dilated = compat.dilate_volume(x, size, radius)
        if dilated.shape != x.shape:
            raise GoldenError(f"out_{name}: rank changed from {x.shape} to {dilated.shape}")
        yield mask_check(f"out_{name}", dilated.reshape(stored.shape), stored)


def _isolate_tumor(args: dict, arrays: Arrays) -> Iterator[Check]:
    options = _options(args)
    masks = compat.isolate_tumor(_tensor(arrays, "in_x"), **options)
    for name, ours in zip(("mask", "small", "big"), masks, strict=True):
        if args["tie"]:
            yield from tie_checks(name, ours, arrays[f"out_{name}"], arrays["in_x"])
        else:
            yield mask_check(name, ours, arrays[f"out_{name}"])


def _get_lesion_channels(args: dict, arrays: Arrays) -> Iterator[Check]:
    x = _tensor(arrays, "in_x", grad=True)
    merged, names = compat.get_lesion_channels(x, args["classes"], return_class_names=True)
    yield loss_check("out", merged, arrays["out"], 0.0)
    (merged * _tensor(arrays, "in_w")).sum().backward()
    yield loss_check("out_grad", x.grad, arrays["out_grad"], 0.0)
    yield Check("names", float(list(names) != args["diagnostics"].get("names", list(names))), 0)


def _global_weighted_rank_pooling(args: dict, arrays: Arrays) -> Iterator[Check]:
    options = _options(args)
    x = _tensor(arrays, "in_x")
    if options.get("N") == "in_N":
        options["N"] = _tensor(arrays, "in_N")
    ours, stored = compat.GlobalWeightedRankPooling(x, **options), arrays["out"]
    floor = float(np.abs(stored).max()) * 1e-3
    if not options.get("return_weights"):
        yield loss_check("pooled", ours, stored, 1e-4, floor=floor)
        return
    # voxels with equal x may swap their ranks, so weights are compared in the order of (x, weight)
    planes = [array.reshape(-1, x.shape[-3:].numel()) for array in (x.numpy(), ours.numpy(), stored)]
    for values, weights, expected in zip(*planes, strict=True):
        ordered, reference = weights[np.lexsort((weights, values))], expected[np.lexsort((expected, values))]
        yield loss_check("weights", ordered, reference, 1e-4, floor=floor)


# losses


def _dice_loss_multi_class(args: dict, arrays: Arrays) -> Iterator[Check]:
    preds = _tensor(arrays, "in_preds", grad=True)
    options = _options(args)
    loss = compat.DiceLossMultiClass(
        preds,
        _tensor(arrays, "in_targets"),
        _tensor(arrays, "in_known"),
        class_weights=_weights(args, arrays),
        **options,
    )
    yield loss_check("out_loss", loss, arrays["out_loss"])
    loss.sum().backward()
    yield gradient_check("out_grad", preds.grad, arrays)


def _volume_loss_basic(args: dict, arrays: Arrays) -> Iterator[Check]:
    out = _tensor(arrays, "in_out", grad=True)
    labels, unk, segment = (_tensor(arrays, f"in_{name}") for name in ("labels", "unk", "seg"))
    options = _options(args)
    losses = compat.volume_loss_basic(
        out,
        segment,
        _tensor(arrays, "in_vol"),
        labels,
        unk,
        args["classes"],
        class_weights=_weights(args, arrays),
        **options,
    )
    yield Check("keys", float(set(losses) != {"dice_volume_loss"}), 0)
    yield loss_check("dice_volume_loss", losses["dice_volume_loss"], arrays["out_loss"])
    losses["dice_volume_loss"].backward()
    yield gradient_check("out_grad", out.grad, arrays)
    chosen = compat.get_lesion_channels(segment, args["classes"])
    dilated = compat.dilate_volume(chosen, options.get("dilation_segment", 31))
    yield loss_check("out_dilated_voxels", dilated.double().sum((2, 3, 4)), arrays["out_dilated_voxels"], 0.0)


def _dice_based_volume_loss(args: dict, arrays: Arrays) -> Iterator[Check]:
    for tolerance in args["tolerances"]:
        for cross_entropy in args["cross_entropy"]:
            x, suffix = (
                _tensor(arrays, "in_x").clone().requires_grad_(),
                f"tol{float(tolerance)}_ce{int(cross_entropy)}",
            )
            loss = compat.dice_based_volume_loss(x, _tensor(arrays, "in_y"), tolerance, args["E"], cross_entropy)
            yield loss_check(f"out_{suffix}", loss, arrays[f"out_{suffix}"])
            loss.sum().backward()
            stored = arrays[f"grad_{suffix}"]
            error = np.abs(x.grad.numpy() - stored).max() / max(np.abs(stored).max(), 1e-30)
            yield Check(f"grad_{suffix}", float(error), GRADIENT_TOLERANCE)


PLACEMENT_OPTIONS = ("diameter_margin", "volume_margin", "gaussian", "gaussian_std", "subseg_dilation", "sigmoid")


def _ball_loss(args: dict, arrays: Arrays) -> Iterator[Check]:
    out = _tensor(arrays, "in_out", grad=True)
    labels, unk, segment, volumes, diameters = (
        _tensor(arrays, f"in_{name}") for name in ("labels", "unk", "seg", "vol", "dia")
    )
    options = _options(args)
    losses = compat.ball_loss(
        out, labels, unk, segment, volumes, diameters, args["classes"], class_weights=_weights(args, arrays), **options
    )
    yield Check("keys", float(set(losses) != {"ball_loss_bce", "ball_loss_dice"}), 0)
    for name, loss in losses.items():
        yield loss_check(name, loss, arrays[f"out_{name}"], TIE_LOSS_TOLERANCE if args["tie"] else LOSS_TOLERANCE)
    if not args["tie"]:
        sum(losses.values()).backward()
        yield gradient_check("out_grad", out.grad, arrays, ranked=out)
    yield from _pseudo_mask_checks(args, arrays, out.detach(), segment, volumes, diameters)


def _pseudo_mask_checks(args: dict, arrays: Arrays, out, segment, volumes, diameters) -> Iterator[Check]:
    options = {key: args[key] for key in PLACEMENT_OPTIONS if key in args}
    samples = compat.ball_pseudo_masks(out, segment, volumes, diameters, args["classes"], **options)
    placed = [masks for tumours in samples for masks in tumours]
    stored = sum(name.startswith("out_t") and name.endswith("_mask") for name in arrays)
    yield Check("number of pseudo masks", float(abs(len(placed) - stored)), 0)
    for index, masks in enumerate(placed[:stored]):
        for name, ours in zip(("mask", "small", "big"), masks, strict=True):
            name = f"out_t{index}_{name}"
            if args["tie"]:
                yield from tie_checks(name, ours, arrays[name])
            else:
                yield mask_check(name, ours, arrays[name])


def _calculate_loss(args: dict, arrays: Arrays) -> Iterator[Check]:
    heads = [_tensor(arrays, name, grad=True) for name in ("in_out", "in_hidden")][: args["outputs"]]
    labels = _tensor(arrays, "in_labels")
    losses = compat.calculate_loss(
        {"segmentation": heads[0] if args["outputs"] == 1 else heads},
        labels.long() if "long_labels" in args["id"] else labels,
        None if args.get("unk_none") else _tensor(arrays, "in_unk"),
        SimpleNamespace(**args["args"]),
        None,
        _tensor(arrays, "in_seg"),
        _tensor(arrays, "in_vol"),
        _tensor(arrays, "in_dia"),
        args["classes"],
        class_weights=_weights(args, arrays),
    )
    stored = {name[len("out_loss_") :]: value for name, value in arrays.items() if name.startswith("out_loss_")}
    if set(stored) != set(losses):
        raise GoldenError(f"keys {sorted(losses)}, stored {sorted(stored)}")
    for name, value in stored.items():
        yield loss_check(name, losses[name], value, TIE_LOSS_TOLERANCE if args["tie"] else LOSS_TOLERANCE)
    losses["overall"].backward()
    for head, name in zip(heads, ("out_grad_final", "out_grad_hidden"), strict=False):
        if not args["tie"]:
            yield gradient_check(name, head.grad, arrays, ranked=head)


# attenuation


def _extract_hu(args: dict, arrays: Arrays) -> Iterator[Check]:
    logits = _tensor(arrays, "in_logits", grad=True)
    features, indices = compat.extract_hu(_tensor(arrays, "in_ct"), logits, args["class_list"])
    yield loss_check("features", features, arrays["out"])
    yield Check("indices", float(list(indices) != args["diagnostics"].get("indices", list(indices))), 0)
    (features * _tensor(arrays, "in_w")).sum().backward()
    yield gradient_check("out_grad", logits.grad, arrays)


def _l1_simple_attenuation_classifier(args: dict, arrays: Arrays) -> Iterator[Check]:
    for i in range(sum(name.endswith("_att") for name in arrays)):
        difference = _tensor(arrays, f"in{i}_att", grad=True)
        loss = compat.l1_simple_attenuation_classifier(
            difference,
            _tensor(arrays, f"in{i}_target"),
            _tensor(arrays, f"in{i}_seg"),
            args["class_list"],
            args["contrast"],
            args["args"],
        )
        yield loss_check(f"row {i} loss", loss, arrays[f"out{i}_loss"])
        gradient = torch.autograd.grad(loss.sum(), difference, allow_unused=True)[0] if loss.requires_grad else None
        ours = np.zeros(difference.shape) if gradient is None else gradient.numpy()
        yield loss_check(f"row {i} gradient", ours[..., 0], arrays[f"out{i}_grad"], GRADIENT_TOLERANCE)


ADAPTERS: dict[str, Callable[[dict, Arrays], Iterator[Check]]] = {
    "DiceLossMultiClass": _dice_loss_multi_class,
    "GlobalWeightedRankPooling": _global_weighted_rank_pooling,
    "ball_loss": _ball_loss,
    "calculate_loss": _calculate_loss,
    "create_ball_kernel": _create_ball_kernel,
    "dice_based_volume_loss": _dice_based_volume_loss,
    "dilate_volume": _dilate_volume,
    "extract_hu": _extract_hu,
    "get_lesion_channels": _get_lesion_channels,
    "isolate_tumor": _isolate_tumor,
    "l1_simple_attenuation_classifier": _l1_simple_attenuation_classifier,
    "volume_loss_basic": _volume_loss_basic,
}
