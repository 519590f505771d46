"""Losses, the way of a volume through the model, and the preparation of data, against the official code.

Reference numbers: cchen-cc/MA-SAM at commit 0c3cd90, see the manifest of each case.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from voxelsam.evaluate.metrics import dice
from voxelsam.space import Grid, canonical
from voxelsam.stacks import MR_PROSTATE, StackPlan, cut_labels, frame_to_model
from voxelsam.train.losses import dice_ce
from voxelsam.volumes.labels import colours_to_labels


@pytest.mark.shared
def test_loss_and_dice(loss_case: Any) -> None:
    tensors, sets = loss_case.tensors("io.safetensors"), loss_case.manifest["losses"]
    for name, expected in sets.items():
        logits = tensors[f"{name}.logits"].clone().requires_grad_()
        target = tensors[f"{name}.labels"]
        assert logits.shape[1] == expected["classes_incl_background"]
        absent = set(range(logits.shape[1])) - set(target.unique().tolist())
        assert absent == set(expected["absent_classes"])
        values = dice_ce(logits, target, expected["dice_weight"], ignore=expected["ignore_label"])
        for key, value in zip(("loss", "loss_ce", "loss_dice"), values, strict=True):
            loss_case.equal(f"{name}: {key}", value.item(), pytest.approx(expected[key], rel=1e-5))
        values[0].backward()
        loss_case.compare(f"{name}.grad", logits.grad, tensors[f"{name}.grad"])
    a, b = (tensors[f"metric.{name}"].numpy() > 0 for name in "ab")
    nothing = np.zeros_like(a)
    pairs = {
        "both": (a, b),
        "pred_only": (a, nothing),
        "gt_only": (nothing, b),
        "none": (nothing, nothing),
        "equal": (a, a),
    }
    expected = loss_case.manifest["dice_per_case"]["values"]
    assert pairs.keys() == expected.keys()
    for name, pair in pairs.items():
        loss_case.equal(f"dice, {name}", dice(*pair, empty="ma_sam"), pytest.approx(expected[name], abs=1e-12))
    loss_case.done()


@pytest.mark.shared
def test_preparation(preparation_case: Any) -> None:
    """MRI volumes and colour frames as the official scripts prepare them, through placement and stacks."""
    case, io = preparation_case, preparation_case.tensors("io.safetensors")
    for name in io:
        if match := re.fullmatch(r"prostate\.window_slice(\d+)(_strided)?", name):
            prostate(case, name, int(match[1]))
        elif match := re.fullmatch(r"endovis\.window_frame(\d+)(_strided)?", name):
            endovis(case, name, int(match[1]))
    case.done()


def prostate(case: Any, name: str, centre: int) -> None:
    """One window of an MRI volume and its labels."""
    io = case.tensors("io.safetensors")
    volume, labels = (io[f"prostate.{part}_xyz"].numpy() for part in ("volume", "label"))
    plan, placement = plan_of(case, name), canonical(Grid(volume.shape, np.eye(4)), "axial")
    canvas, classes = placement.bring(volume[None]), placement.bring_labels(np.minimum(labels, 1))
    quantile = float(re.search(r"([\d.]+) quantile", case.meaning("io.safetensors", name))[1])
    assert (MR_PROSTATE.kind, MR_PROSTATE.limits) == ("percentile", (0, 100 * quantile))
    start = centre - plan.lead
    scaled = MR_PROSTATE.measure(canvas).apply(canvas)[..., list(plan.slices(start, canvas.shape[3]))]
    slices = torch.from_numpy(np.ascontiguousarray(rearrange(scaled, "c i j d -> d c j i")))
    window = rearrange(frame_to_model(slices, plan.frame(slices.shape[2:])), "d 1 h w -> h w d")
    case.compare(name, case.part(name, window), io[name])
    limits = case.manifest["prostate_window_min_max"]
    case.equal("range", [window.min().item(), window.max().item()], pytest.approx(limits, abs=1e-5))
    mask = name.replace("window", "mask_window", 1)
    cut_mask = rearrange(cut_labels(classes, plan, start), "d h w -> h w d").to(torch.uint8)
    case.equal(mask, case.part(name, cut_mask), io[mask])


def endovis(case: Any, name: str, centre: int) -> None:
    """One window of colour frames and its colour-coded labels."""
    io, colours = case.tensors("io.safetensors"), case.manifest["endovis_colour_to_index"]
    frames, coded = (io[f"endovis.{part}"].numpy() for part in ("frames", "colour_labels"))
    table = {tuple(map(int, text.strip("()").split(","))): value for text, value in colours.items()}
    values = colours_to_labels(coded, table, unknown="background")
    plan = plan_of(case, name)
    placement = canonical(Grid((*frames.shape[1:3], len(frames)), np.eye(4)), "axial")
    canvas = placement.bring(rearrange(frames, "k row column rgb -> rgb row column k"))
    classes = placement.bring_labels(rearrange(values, "k row column -> row column k"))
    start = centre - plan.lead
    picked = canvas[..., list(plan.slices(start, len(frames)))]
    slices = torch.from_numpy(np.ascontiguousarray(rearrange(picked, "rgb i j d -> d rgb j i")))
    window = rearrange(frame_to_model(slices, plan.frame(slices.shape[2:])), "d rgb h w -> h w rgb d")
    case.equal(name, case.part(name, window), io[name])
    mask = name.replace("window", "mask_window", 1)
    cut_mask = rearrange(cut_labels(classes, plan, start), "d h w -> h w d").to(torch.uint8)
    case.equal(mask, case.part(name, cut_mask), io[mask])


def plan_of(case: Any, name: str) -> StackPlan:
    """The official preparation as a plan; sizes from the manifest's words, such as [512, 512, RGB, 5]."""
    height, width, depth = map(
        int, re.search(r"\[(\d+), (\d+), (?:RGB, )?(\d+)\]", case.meaning("io.safetensors", name)).groups()
    )
    return StackPlan(depth=depth, size=(height, width), interpolation="cubic", fit="stretch")
