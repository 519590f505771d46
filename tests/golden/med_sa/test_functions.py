"""Helper functions against the official code: depth as a picture, relative positions, metric, losses, clicks.

Reference numbers: SuperMedIntel/Medical-SAM-Adapter, see the manifest of each case.
"""

import re
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange

from voxelsam.adapt.med_sa import closest_factors
from voxelsam.evaluate.metrics import multi_threshold
from voxelsam.nn.attention import resize_table
from voxelsam.prompts.simulate import Click, jittered, most_agreed, per_slice, random_points, tight_box
from voxelsam.train.losses import bce, sigmoid_dice_ce


@pytest.mark.shared
def test_functions(functions_case: Any) -> None:
    depth_as_a_picture(functions_case)
    relative_positions(functions_case)
    overlaps(functions_case)
    losses(functions_case)
    clicks_on_a_picture(functions_case)
    clicks_in_a_volume(functions_case)
    boxes(functions_case)
    functions_case.done()


def depth_as_a_picture(case: Any) -> None:
    for number, factors in case.manifest["closest_numbers"].items():
        case.equal(f"factors of {number}", list(closest_factors(int(number))), factors)


def relative_positions(case: Any) -> None:
    """The official function gives the table's row for every pair of a query and a key."""
    for name in case.tensors:
        if match := re.fullmatch(r"relpos\.in\.(\d+)_(\d+)", name):
            rows, size = (int(number) for number in match.groups())
            assert len(case.tensors[name]) == rows
            table = resize_table(case.tensors[name], 2 * size - 1)
            position = torch.arange(size)
            pairs = table[position[:, None] - position + size - 1]
            case.compare(name, pairs, case.tensors[f"relpos.out.{rows}_{size}"])


def overlaps(case: Any) -> None:
    """The metric of each channel: first IoU of all of them, then Dice."""
    thresholds = case.manifest["eval_seg"]["thresholds"]
    for channels, expected in case.manifest["eval_seg"]["values"].items():
        probability, target = (case.tensors[f"eval.c{channels}.{name}"] for name in ("logits", "target"))
        found = [
            multi_threshold(probability[:, i].sigmoid().numpy(), target[:, i].numpy(), thresholds)
            for i in range(int(channels))
        ]
        both = np.array([[one.iou for one in found], [one.dice for one in found]]).flatten()
        case.compare(f"overlap, {channels}", torch.from_numpy(both), expected)


def losses(case: Any) -> None:
    logits, target = case.tensors["loss.logits"], case.tensors["loss.target"]
    for name, value in case.manifest["losses"].items():
        if match := re.fullmatch(r"bce_pos_weight([\d.]+)", name):
            case.compare(name, bce(logits, target, float(match[1])), value)
        else:
            assert name == "dicece_sigmoid_squared_mean"
            case.compare(name, sigmoid_dice_ce(logits, target), value)


def clicks_on_a_picture(case: Any) -> None:
    """Every official click lies where ours can lie, and ours lies nowhere else."""
    mask = np.array(case.manifest["click2d"]["mask"], np.float32)
    rng = np.random.default_rng(0)
    highest = {(x, y) for y, x in np.argwhere(mask == mask.max()).tolist()}
    ours = {place(most_agreed(mask, rng)) for _ in range(30 * len(highest))}
    case.equal("where clicks may lie", ours, highest)
    case.equal("official clicks elsewhere", {tuple(xy) for xy in case.manifest["click2d"]["draws_xy"]} - ours, set())
    case.equal("label for an empty mask", case.manifest["click2d"]["empty_mask_label"], 0.0)
    case.equal("click on an empty mask", most_agreed(np.zeros_like(mask), rng), None)
    case.equal("points on an empty mask", random_points(np.zeros((1, *mask.shape), bool), 1, rng), ())


def clicks_in_a_volume(case: Any) -> None:
    """One class per slice is clicked. The official code also clicks on slices that show nothing; ours does not."""
    volumes, masks = (
        rearrange(case.tensors[f"click3d.{name}"], "b 1 h w d -> b d h w").numpy() for name in ("label_volume", "masks")
    )
    points = rearrange(case.tensors["click3d.points"], "b two d -> b d two").long().tolist()
    for volume, mask, clicks in zip(volumes, masks, points, strict=True):
        everywhere = per_slice(volume > 0, max(1, int((volume > 0).sum(axis=(1, 2)).max())), np.random.default_rng(0))
        ours = {(click.slice, *place(click)) for click in everywhere}
        for k, (row, column) in enumerate(clicks):
            if volume[k].any():
                case.equal(f"slice {k}: a click that ours can be", (k, column, row) in ours, True)
                case.equal(f"slice {k}: mask", ((volume[k] == volume[k, row, column]) == mask[k]).all(), True)
            else:
                case.equal(f"slice {k}: clicks", [click for click in everywhere if click.slice == k], [])
                case.equal(f"slice {k}: mask", mask[k].any(), np.False_)


def boxes(case: Any) -> None:
    """The official box is rows, then columns, as pixels; ours are edges, x first."""
    top, bottom, left, right = case.manifest["random_box"]["value"]
    mask = np.zeros((bottom + 5, right + 5), bool)
    mask[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    box = tight_box(mask)
    case.equal("box", box, (max(left, 0) - 0.5, max(top, 0) - 0.5, right + 0.5, bottom + 0.5))
    case.equal("a box that nobody moves", jittered(box, 0.0, np.random.default_rng(0), mask.shape, "uniform"), box)


def place(click: Click | None) -> tuple[float, float] | None:
    """Where a click lies, if it is on the object."""
    return (click.x, click.y) if click is not None and click.inside else None
