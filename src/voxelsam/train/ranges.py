"""What a bundle says of the scans that it was trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from voxelsam.bundle import AugmentLearnt
from voxelsam.data.augment import COLUMNS, ROWS, AugmentConfig, flips
from voxelsam.stacks.intensity import Intensity
from voxelsam.stacks.plan import StackPlan
from voxelsam.stacks.ranges import Look, Ranges, seen

NAMES: dict[int, Literal["rows", "columns"]] = {ROWS: "rows", COLUMNS: "columns"}


def augment(config: AugmentConfig) -> AugmentLearnt:
    """What training shows with that section of the recipe."""
    return AugmentLearnt(config.preset, tuple(NAMES[axis] for axis in flips(config.preset, config.mirror)))


def ranges(fingerprint: Path, plan: StackPlan, intensity: Intensity) -> Ranges | None:
    """The ranges of the training scans.

    Args:
        fingerprint: the run's ``fingerprint.json``; a run that goes on has no other.
        plan: how they are cut.
        intensity: how their values are scaled.

    Returns:
        None where the file is missing or empty, as in runs of older versions.
    """
    if not fingerprint.is_file():
        return None
    cases = (json.loads(fingerprint.read_text("utf-8")) or {}).get("cases", [])
    if not cases:
        return None
    return Ranges.of([_look(case, plan, intensity) for case in cases], [_millilitres(case) for case in cases])


def _look(case: Mapping[str, Any], plan: StackPlan, intensity: Intensity) -> Look:
    plane = case["plane"] if plan.plane == "auto" else plan.plane
    quantiles = tuple(tuple(channel) for channel in case.get("image", ()))
    return Look(tuple(case["spacings"][plane]), tuple(case["sizes"][plane]), seen(quantiles, intensity))


def _millilitres(case: Mapping[str, Any]) -> dict[str, float]:
    i, j, k = case["spacings"][case["plane"]]
    return {name: voxels * i * j * k / 1000 for name, voxels in case["voxels"].items()}
