"""How far the surfaces of two masks lie apart.

Distances are in the unit of the spacing, which every function needs: there is no default, because a distance in voxels
of 0.8 × 0.8 × 5 mm means nothing. Masks have two axes or three; on two axes the surface is the outline.

A mask's border is the mask minus its erosion with 6 neighbours (4 on two axes); distances run between the centres of
border voxels (the field's habit: MONAI, medpy, SimpleITK). What lies outside of the grid is background, ``closed``:
where the scan's end cuts a structure off, the cut is surface (MONAI, medpy, surface-distance). With ``open`` it counts
as inside, so that the cut is no surface (CHAOS challenge).

    HD           largest distance of a border voxel of one mask to the other mask's border
    HD95         95th percentile of these distances per direction, then the larger of the two (MONAI, Metrics Reloaded)
    HD95 pooled  95th percentile of both directions together (medpy)
    ASSD         mean of both directions together (MONAI and medpy)
    ASD          mean from the prediction to the reference only (medpy's asd)
    NSD          share of both surfaces' area that lies within a tolerance of the other surface (surface Dice,
                 arXiv 1809.04430); area by marching cubes between voxel centres

Masks that are empty have no surface: distances to them are NaN, and NSD is 0, or NaN if both are empty. What such a
case scores in a table is a rule of ``measures``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from voxelsam.errors import InputError

Faces = Literal["closed", "open"]
"""What lies outside of the grid: background, or more of the structure that touches its face."""

Mask = Bool[np.ndarray, "*axes"]
"""Two or three axes."""

_ROUNDING = 1e-6
"""A distance this little above a tolerance, as a share of it, is within."""


@dataclass(frozen=True, eq=False)
class Distances:
    """From every border voxel of one mask to the nearest of the other; empty where either mask has no border."""

    forward: Float64[np.ndarray, " predicted"]
    """From the prediction to the reference."""
    backward: Float64[np.ndarray, " present"]
    """From the reference to the prediction."""

    @cached_property
    def pooled(self) -> Float64[np.ndarray, " both"]:
        """Both directions together."""
        return np.concatenate((self.forward, self.backward))

    @property
    def hd(self) -> float:
        """Largest distance."""
        return float(self.pooled.max()) if self.pooled.size else math.nan

    @property
    def hd95(self) -> float:
        """The larger of the two 95th percentiles."""
        return max(_percentile(self.forward), _percentile(self.backward))

    @property
    def hd95_pooled(self) -> float:
        """95th percentile of both directions together."""
        return _percentile(self.pooled)

    @property
    def assd(self) -> float:
        """Mean of both directions together."""
        return float(self.pooled.mean()) if self.pooled.size else math.nan

    @property
    def asd(self) -> float:
        """Mean from the prediction to the reference."""
        return float(self.forward.mean()) if self.forward.size else math.nan


def distances(prediction: Mask, reference: Mask, spacing: Sequence[float], *, faces: Faces = "closed") -> Distances:
    """Distances between the borders of two masks.

    Args:
        prediction: two or three axes.
        reference: of the same shape.
        spacing: distance of neighbouring voxel centres along each axis.
        faces: what lies outside of the grid.

    Raises:
        InputError: shapes differ, there are not two or three axes, or the spacing is not one positive number per axis.
    """
    _check(prediction, reference, spacing)
    box = joint_box(prediction | reference)
    first, second = (_border(mask[box], faces) for mask in (prediction, reference))
    return Distances(_nearest(first, second, spacing), _nearest(second, first, spacing))


def hd(prediction: Mask, reference: Mask, spacing: Sequence[float], *, faces: Faces = "closed") -> float:
    """Hausdorff distance; arguments as for :func:`distances`."""
    return distances(prediction, reference, spacing, faces=faces).hd


def hd95(prediction: Mask, reference: Mask, spacing: Sequence[float], *, faces: Faces = "closed") -> float:
    """Larger of the two directed 95th percentiles (MONAI, Metrics Reloaded); arguments as for :func:`distances`."""
    return distances(prediction, reference, spacing, faces=faces).hd95


def hd95_pooled(prediction: Mask, reference: Mask, spacing: Sequence[float], *, faces: Faces = "closed") -> float:
    """95th percentile of both directions together (medpy's hd95); arguments as for :func:`distances`."""
    return distances(prediction, reference, spacing, faces=faces).hd95_pooled


def assd(prediction: Mask, reference: Mask, spacing: Sequence[float], *, faces: Faces = "closed") -> float:
    """Average symmetric surface distance; arguments as for :func:`distances`."""
    return distances(prediction, reference, spacing, faces=faces).assd


def nsd(
    prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float, *, faces: Faces = "closed"
) -> float:
    """Surface Dice at a tolerance, 0..1: shares of area, as surface-distance and MONAI's ``use_subvoxels`` compute it.

    Args:
        prediction: two or three axes.
        reference: of the same shape.
        spacing: distance of neighbouring voxel centres along each axis.
        tolerance: in the unit of the spacing; a distance of just the tolerance is within.
        faces: what lies outside of the grid.

    Raises:
        InputError: as for :func:`distances`, or the tolerance is no distance.
    """
    _check(prediction, reference, spacing)
    if not 0 <= tolerance < math.inf:
        raise InputError(f"the tolerance of a surface Dice is a distance of 0 or more, not {tolerance}")
    box = joint_box(prediction | reference)
    (first, first_area), (second, second_area) = (
        _surface(mask[box], spacing, faces) for mask in (prediction, reference)
    )
    total = float(first_area.sum() + second_area.sum())
    if not total:
        return 0.0 if prediction.any() != reference.any() else math.nan
    if not first.size or not second.size:
        return 0.0
    limit = tolerance * (1 + _ROUNDING)
    close = first_area[_nearest(first, second, spacing) <= limit].sum()
    close += second_area[_nearest(second, first, spacing) <= limit].sum()
    return float(close) / total


def _check(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3):
        raise InputError(
            f"distances need two masks of one shape with two or three axes, but {prediction.shape} and "
            f"{reference.shape} came"
        )
    if len(spacing) != prediction.ndim or not all(0 < step < math.inf for step in spacing):
        raise InputError(
            f"the spacing is one positive number for each of the {prediction.ndim} axes, but {tuple(spacing)} came"
        )


def joint_box(either: Mask) -> tuple[slice, ...]:
    """The smallest part of the grid that holds a mask and, where the grid goes on, one voxel around it.

    Args:
        either: voxels in any of the masks to be cut out.
    """
    sides = []
    for axis in range(either.ndim):
        shown = np.flatnonzero(either.any(axis=tuple(other for other in range(either.ndim) if other != axis)))
        sides.append(slice(max(int(shown[0]) - 1, 0), int(shown[-1]) + 2) if shown.size else slice(0, 0))
    return tuple(sides)


def _border(mask: Mask, faces: Faces) -> Int64[np.ndarray, "n axes"]:
    """Indices of the mask's voxels that have a neighbour outside of it."""
    if not mask.size:
        return np.zeros((0, mask.ndim), np.int64)
    return np.argwhere(mask & ~binary_erosion(mask, border_value=int(faces == "open")))


def _surface(
    mask: Mask, spacing: Sequence[float], faces: Faces
) -> tuple[Int64[np.ndarray, "n axes"], Float64[np.ndarray, " n"]]:
    """Places between voxel centres that the surface runs through, and the surface's area there."""
    table, weights = _areas(tuple(float(step) for step in spacing))
    closed = np.pad(mask, 1) if faces == "closed" else mask
    if min(closed.shape) < 2:
        return np.zeros((0, mask.ndim), np.int64), np.zeros(0)
    code = np.zeros([size - 1 for size in closed.shape], np.uint8)
    for corner in product((0, 1), repeat=mask.ndim):
        part = closed[tuple(slice(start, start + size) for start, size in zip(corner, code.shape, strict=True))]
        code += part * weights[corner]
    places = np.argwhere((code > 0) & (code < 2 ** (2**mask.ndim) - 1))
    return places, table[code[tuple(places.T)]]


@cache
def _areas(spacing: tuple[float, ...]) -> tuple[Float64[np.ndarray, " codes"], UInt8[np.ndarray, "*corners"]]:
    """Area of surface between neighbouring voxel centres by the code of those inside, and each corner's share of it."""
    from monai.metrics.utils import get_code_to_measure_table

    table, weights = get_code_to_measure_table(spacing)  # type: ignore[no-untyped-call]
    return table.double().numpy(), weights[0, 0].numpy().astype(np.uint8)


def _nearest(
    origin: Int64[np.ndarray, "n axes"], target: Int64[np.ndarray, "m axes"], spacing: Sequence[float]
) -> Float64[np.ndarray, " n_or_none"]:
    """From each place to the nearest target; none if either is missing.

    The tree finds the neighbour; its distance comes from whole steps, so that a shift or flip changes no digit.
    """
    if not origin.size or not target.size:
        return np.zeros(0)
    scale = np.asarray(spacing, np.float64)
    _, nearest = KDTree(target * scale, leafsize=32).query(origin * scale)
    return np.asarray(np.linalg.norm((origin - target[nearest]) * scale, axis=1))


def _percentile(values: Float64[np.ndarray, " n"]) -> float:
    return float(np.percentile(values, 95)) if values.size else math.nan
