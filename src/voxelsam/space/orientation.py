"""Axis strings, and the permutations and flips between them.

An axis string names, for i, j and k in turn, the patient direction that the index runs *towards*: ``RAS`` is the
NIfTI habit, ``LPS`` the DICOM one. Reordering moves whole voxels and never computes a new value.

A canonical slice is shown with i to the right and j downwards, the way radiologists look at it: the patient's right
on the left of the picture in axial and coronal slices, the front on the left in sagittal ones, the head at the top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from voxelsam.errors import GeometryError
from voxelsam.space.grid import Grid
from voxelsam.types import Affine

Plane = Literal["axial", "coronal", "sagittal"]
"""The anatomical plane that slices are taken in."""

PLANES: Mapping[Plane, str] = MappingProxyType({"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"})
"""Axes of the canonical i, j, k of each plane."""

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_PLANE_ACROSS: Mapping[str, Plane] = MappingProxyType(
    {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
)
_EQUAL_SPACING = 1.01
"""Spacings that differ by less than this factor count as equal."""


@dataclass(frozen=True)
class Reordering:
    """Which old axis each new axis is, and which new axes run the other way."""

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(
        self, data: Shaped[np.ndarray, "*channels i j k"]
    ) -> Shaped[np.ndarray, "*channels target_i target_j target_k"]:
        """Reorders the last three axes; the result is a view of the data."""
        lead = data.ndim - 3
        moved = data.transpose(*range(lead), *(lead + axis for axis in self.order))
        result: Shaped[np.ndarray, "*channels target_i target_j target_k"] = np.flip(
            moved, tuple(lead + axis for axis in range(3) if self.flips[axis])
        )
        return result

    def inverse(self) -> "Reordering":
        """The reordering that brings the old axes back."""
        a, b, c = (self.order.index(axis) for axis in range(3))
        return Reordering((a, b, c), (self.flips[a], self.flips[b], self.flips[c]))

    def matrix(self, shape: tuple[int, int, int]) -> Affine:
        """New index to old index, for an old grid of that shape; whole numbers only."""
        result = np.zeros((4, 4))
        result[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.order, self.flips, strict=True)):
            result[old, new] = -1 if flip else 1
            result[old, 3] = shape[old] - 1 if flip else 0
        return result


def opposite(axes: str) -> str:
    """The axis string with every direction turned round: ``RAS`` becomes ``LPI``.

    Raises:
        GeometryError: this is no axis string.
    """
    return "".join(_OPPOSITE[letter] for letter in _checked(axes))


def to_axes(current: str, wanted: str) -> Reordering:
    """The permutation and the flips that turn one axis string into another.

    Args:
        current: axes of the data at hand, e.g. ``Grid.axes``.
        wanted: axes to arrive at.

    Raises:
        GeometryError: one of them is no axis string.
    """
    old, turned = _checked(current), opposite(current)
    a, b, c = (max(old.find(letter), turned.find(letter)) for letter in _checked(wanted))
    return Reordering((a, b, c), (old[a] != wanted[0], old[b] != wanted[1], old[c] != wanted[2]))


def plane_of(grid: Grid) -> Plane:
    """The plane a grid was taken in: across its coarsest axis, axial when that is not clear (within 1 %).

    Frames of a film and single images lie across k, whatever the spacing.
    """
    if grid.along_k != "space":
        return _PLANE_ACROSS[grid.axes[2]]
    fine, coarse = sorted(grid.spacing)[1:]
    if coarse < fine * _EQUAL_SPACING:
        return "axial"
    return _PLANE_ACROSS[grid.axes[grid.spacing.index(coarse)]]


def _checked(axes: str) -> str:
    if len(axes) != 3 or any(sum(letter in pair for letter in axes) != 1 for pair in ("RL", "AP", "SI")):
        raise GeometryError(f"an axis string has one letter of each of RL, AP and SI, such as RAS, but {axes!r} came")
    return axes
