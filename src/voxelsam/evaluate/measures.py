"""What is measured of one structure in one case beside its overlap, in which unit, and by which definition.

Volumes are measured in space: all three axes in mm. Pictures are measured in their plane; the surface is the outline.
So is a volume of one slice. In films every frame is measured in its plane, because mm and seconds do not add up, and
the case's value is the mean over the frames that show the structure in either mask; if it has no value in one of them,
the case has none. Distances on pictures and films whose pixels have no size are in pixels.

A structure that neither mask has follows the preset's rule ``empty``:

    nan   no values, and left out of means
    one   as good as can be: shares are 1, distances and volume errors 0
    zero  as bad as can be: shares are 0, distances those of the next paragraph, volume errors undefined

If exactly one mask has it, shares are 0, the volume error is -100 % where it was missed (undefined where the reference
has none), and distances follow ``penalty``: ``none``, undefined; or ``diagonal``, the distance of two opposite corners
of the grid (of a frame, in films). Undefined distances are left out of means and counted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from voxelsam.evaluate import surface
from voxelsam.evaluate.lesions import Lesions, detect
from voxelsam.evaluate.metrics import multi_threshold
from voxelsam.evaluate.presets import Penalty, Preset
from voxelsam.space.grid import Grid

Unit = Literal["mm", "px", "voxel"]

Volume = Bool[np.ndarray, "i j k"]

PENALTIES: dict[Penalty, str] = {
    "none": "a class in exactly one mask has no distance and is left out of the means of distances",
    "diagonal": "a class in exactly one mask is as far away as two opposite corners of the scan",
}

LESION = "lesion_"
"""Start of the names of what is counted per lesion."""

DISTANCES = ("HD", "HD95", "HD95_pooled", "ASSD", "ASD")
"""Metrics in a unit of length."""

_UNITS = {"RVE": "%", "RAVD": "%", "VD": "ml"}
_HEADS = {
    "lesion_sensitivity": "lesion sens.",
    "lesion_precision": "lesion prec.",
    "lesion_n_ref": "lesions",
    "lesion_n_pred": "parts",
}

_ABOUT: dict[str, str] = {
    "HD": "largest distance between the two borders, in {unit}",
    "HD95": "95th percentile of the distances between border voxels, in {unit}: the larger of the two directions "
    "(MONAI, Metrics Reloaded)",
    "HD95_pooled": "95th percentile of the distances between border voxels, in {unit}: both directions pooled (medpy)",
    "ASSD": "mean distance between border voxels, in {unit}: both directions pooled",
    "ASD": "mean distance from the prediction's border voxels to the reference's, in {unit} (medpy's asd)",
    "NSD": "share of both surfaces' area within {tolerance:g} {unit} of the other surface, 0 to 1 (surface Dice)",
    "RVE": "100 (predicted - reference volume) / reference volume, in %; below 0: too small",
    "RAVD": "absolute value of RVE, in %",
    "VD": "predicted - reference volume, in ml",
    "Dice_multi": "of every slice, cut at 0.1, 0.3, 0.5, 0.7 and 0.9, smoothed; mean over cuts and slices (Med-SA)",
    "IoU_multi": "as Dice_multi, for IoU",
    "lesion_F1": "harmonic mean of lesion sensitivity and precision",
    "lesion_sensitivity": "share of the reference's connected parts (26 neighbours) that were found: {match}",
    "lesion_precision": "share of the prediction's connected parts that are right: {match}",
    "lesion_n_ref": "connected parts of the reference of at least {smallest_lesion:g} mm³",
    "lesion_n_pred": "connected parts of the prediction of at least {smallest_lesion:g} mm³",
}


@dataclass(frozen=True)
class Scale:
    """How a grid is measured."""

    spacing: tuple[float, float, float]
    unit: Unit
    framewise: bool
    """Frame by frame; in films."""


@dataclass(frozen=True)
class MeasureScore:
    """One measure of one class over all scored cases; NaN where no case has a value."""

    mean: float
    deviation: float
    """Standard deviation over cases (of the cases at hand, not an estimate for a population)."""
    cases: int
    """Cases with a value."""
    undefined: int
    """Cases without one though a mask has the class; they are in no mean."""


def scale_of(grid: Grid, units: Literal["mm", "voxel"]) -> Scale:
    """How a grid is measured in these units; pixels of 1 mm on pictures and films count as pixels without a size."""
    flat = grid.along_k != "space"
    across, down, step = grid.spacing
    if units == "voxel":
        return Scale((1.0, 1.0, 1.0), "voxel", grid.along_k == "time")
    unit: Unit = "px" if flat and across == down == 1 else "mm"
    return Scale((across, down, 1.0 if flat else step), unit, grid.along_k == "time")


def definitions(names: Sequence[str], preset: Preset, unit: str) -> dict[str, str]:
    """What each value means.

    Args:
        names: keys of ``measure``.
        preset: the choices behind them.
        unit: of distances.
    """
    match = "one voxel in the other mask"
    if preset.match == "iou":
        match = f"paired one to one with an IoU of at least {preset.match_iou:g}"
    known = {"unit": unit, "tolerance": preset.tolerance, "smallest_lesion": preset.smallest_lesion, "match": match}
    return {name: _ABOUT[name].format(**known) for name in names if name in _ABOUT}


def heading(name: str, preset: Preset, unit: str) -> str:
    """A value's name with its unit, for the head of a table.

    Args:
        name: key of ``measure``.
        preset: the choices behind it.
        unit: of distances.
    """
    if name in DISTANCES:
        return f"{name} {unit}"
    if name == "NSD":
        return f"NSD at {preset.tolerance:g} {unit}"
    return f"{name} {_UNITS[name]}" if name in _UNITS else _HEADS.get(name, name.replace("_", " "))


def measure(
    prediction: Volume,
    reference: Volume,
    grid: Grid,
    preset: Preset,
    probability: Float[np.ndarray, "i j k"] | None = None,
) -> dict[str, float]:
    """Everything that a preset asks for, but overlap.

    Args:
        prediction: voxels of the structure.
        reference: the same.
        grid: of both.
        preset: what to measure, and how.
        probability: of the structure, 0 to 1, for ``multi_threshold``; without it the prediction counts as certain.

    Returns:
        Value by name, NaN where it is undefined; lesions under names that start with ``lesion_``.
    """
    scale = scale_of(grid, preset.units)
    found = _distances(prediction, reference, scale, preset) | _volumes(prediction, reference, grid, preset)
    if "lesions" in preset.metrics:
        size = grid.voxel_volume if grid.along_k == "space" else grid.spacing[0] * grid.spacing[1]
        lesions = detect(
            prediction,
            reference,
            size,
            smallest=preset.smallest_lesion,
            match=preset.match,
            least_iou=preset.match_iou,
        )
        found |= _lesions(lesions, preset)
    if "multi_threshold" in preset.metrics:
        soft = prediction.astype(np.float32) if probability is None else probability
        overlap = multi_threshold(np.moveaxis(soft, 2, 0), np.moveaxis(reference, 2, 0).astype(np.float32))
        found |= {"Dice_multi": overlap.dice, "IoU_multi": overlap.iou}
    return found


def _distances(prediction: Volume, reference: Volume, scale: Scale, preset: Preset) -> dict[str, float]:
    """Distances and NSD, over the frames where there are some."""
    names = [name for name in preset.metrics if name in (*DISTANCES, "NSD")]
    if not names:
        return {}
    if not prediction.any() and not reference.any():
        shape = (*prediction.shape[:2], 1) if scale.framewise else prediction.shape
        return _both_empty(names, shape, scale, preset)
    each = [_planar(*pair, scale, names, preset) for pair in _frames(prediction, reference, scale)]
    return {name: float(np.mean([values[name] for values in each])) for name in names}


def _frames(prediction: Volume, reference: Volume, scale: Scale) -> Iterator[tuple[Volume, Volume]]:
    """The two masks; or, frame by frame, where either of them shows something."""
    if not scale.framewise:
        yield prediction, reference
        return
    for frame in np.flatnonzero((prediction | reference).any(axis=(0, 1))).tolist():
        yield prediction[..., frame : frame + 1], reference[..., frame : frame + 1]


def _planar(
    prediction: Volume, reference: Volume, scale: Scale, names: Sequence[str], preset: Preset
) -> dict[str, float]:
    """Distances of two masks that are not both empty, in their plane if there is one slice only."""
    axes = 2 if prediction.shape[2] == 1 else 3
    first, second = (mask[..., 0] if axes == 2 else mask for mask in (prediction, reference))
    spacing = scale.spacing[:axes]
    values: dict[str, float] = {}
    if any(name in DISTANCES for name in names):
        apart = surface.distances(first, second, spacing, faces=preset.faces)
        values = {
            "HD": apart.hd,
            "HD95": apart.hd95,
            "HD95_pooled": apart.hd95_pooled,
            "ASSD": apart.assd,
            "ASD": apart.asd,
        }
    if not first.any() or not second.any():
        values = dict.fromkeys(DISTANCES, _penalty(prediction.shape, scale, preset))
    if "NSD" in names:
        values["NSD"] = surface.nsd(first, second, spacing, preset.tolerance, faces=preset.faces)
    return {name: values[name] for name in names}


def _penalty(shape: tuple[int, ...], scale: Scale, preset: Preset) -> float:
    """Distance of a structure that one mask lacks."""
    if preset.penalty == "none":
        return math.nan
    return math.hypot(*((count - 1) * step for count, step in zip(shape, scale.spacing, strict=True)))


def _both_empty(names: Sequence[str], shape: tuple[int, ...], scale: Scale, preset: Preset) -> dict[str, float]:
    """Distances and NSD of a structure that neither mask has."""
    if preset.empty == "nan":
        return dict.fromkeys(names, math.nan)
    far = 0.0 if preset.empty == "one" else _penalty(shape, scale, preset)
    share = 1.0 if preset.empty == "one" else 0.0
    return {name: share if name == "NSD" else far for name in names}


def _volumes(prediction: Volume, reference: Volume, grid: Grid, preset: Preset) -> dict[str, float]:
    """Errors of the volume; in ml only where there is a volume."""
    predicted, present = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    error = difference = math.nan
    if predicted or present:
        error = 100 * (predicted - present) / present if present else math.nan
        difference = (predicted - present) * grid.voxel_volume / 1000
    elif preset.empty == "one":
        error = difference = 0.0
    values = {"RVE": error, "RAVD": abs(error)} | ({"VD": difference} if grid.along_k == "space" else {})
    return {name: value for name, value in values.items() if name in preset.metrics}


def _lesions(lesions: Lesions, preset: Preset) -> dict[str, float]:
    """Detection under the rule for structures without any lesion."""
    shares = {"F1": lesions.f1, "sensitivity": lesions.sensitivity, "precision": lesions.precision}
    if not lesions.reference and not lesions.prediction and preset.empty != "nan":
        shares = dict.fromkeys(shares, 1.0 if preset.empty == "one" else 0.0)
    counts = {"n_ref": float(lesions.reference), "n_pred": float(lesions.prediction)}
    return {f"{LESION}{name}": value for name, value in (shares | counts).items()}


def over_cases(name: str, cases: Sequence[Mapping[str, float]], shown: Sequence[Mapping[str, float]]) -> MeasureScore:
    """One measure of one class over cases.

    Args:
        name: key of ``measure``.
        cases: values of every case.
        shown: of these, the cases in which a mask has the class.
    """
    values = [case[name] for case in cases if _defined(case, name)]
    return MeasureScore(
        mean=fmean(values) if values else math.nan,
        deviation=pstdev(values) if values else math.nan,
        cases=len(values),
        undefined=sum(name in case and not _defined(case, name) for case in shown),
    )


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what is counted per lesion under ``lesions``."""
    flat = {name: value for name, value in values.items() if not name.startswith(LESION)}
    lesions = {name.removeprefix(LESION): value for name, value in values.items() if name.startswith(LESION)}
    return flat | ({"lesions": lesions} if lesions else {})


def _defined(values: Mapping[str, float], name: str) -> bool:
    return name in values and not math.isnan(values[name])
