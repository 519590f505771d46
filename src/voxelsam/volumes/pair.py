"""Do two things lie on the same voxels?

Compared in millimetres at the corners, not bit by bit: header rounding differs between programs.
"""

from voxelsam import checks
from voxelsam.errors import GeometryError
from voxelsam.space.grid import Grid
from voxelsam.volumes.volume import LabelMap, Volume

TOLERANCE_MM = 0.5
"""Corners further apart than this are two places."""

NOTICE_MM = 1e-3
"""Corners further apart than this are worth a warning."""


def check_pair(image: Volume, label: LabelMap) -> None:
    """Refuses a label map that does not lie on the voxels of its image.

    Raises:
        GeometryError: GEO-01, the shapes differ; GEO-02, a corner differs by more than 0.5 mm (where that is accepted,
            equal indices count as equal places). Corners that differ by less, but by more than 0.001 mm, are an
            InputWarning.
    """
    check_grids(image.grid, label.grid, str(image.source or "the image"), str(label.source or "the label map"))


def check_grids(first: Grid, second: Grid, first_name: str, second_name: str) -> None:
    """``check_pair`` for bare grids; the names are for the message."""
    if first.shape != second.shape:
        raise GeometryError(
            f"{second_name} has {second.shape} voxels, but {first_name} has {first.shape}; "
            "they must belong to the same scan: look for a mixed-up file name, or resample one onto the other",
            code="GEO-01",
        )
    apart = first.displacement(second)
    if apart > TOLERANCE_MM:
        checks.refuse(
            "GEO-02",
            f"{second_name} lies up to {apart:.3g} mm away from {first_name} (allowed: {TOLERANCE_MM} mm); "
            "one of the two headers is wrong: correct it, or resample one onto the other",
            GeometryError,
        )
    elif apart > NOTICE_MM:
        checks.notice(
            "GEO-02",
            f"{second_name} lies up to {apart:.3g} mm away from {first_name} (noticed above {NOTICE_MM} mm, refused "
            f"above {TOLERANCE_MM} mm); taken as the same place",
            stacklevel=3,
        )
