"""Whether planes make a volume, and where its voxels lie.

The distance of slices comes from their positions, never from a tag. What is wrong with them has a name: ``duplicate``,
``gap``, ``irregular step``, ``thickness`` (DCM-01), ``tilt`` (DCM-02), ``no volume`` (DCM-03), ``place`` (DCM-08).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from voxelsam import checks
from voxelsam.errors import GeometryError
from voxelsam.formats._dicom_facts import Remark
from voxelsam.formats._dicom_plane import SECTIONS, Plane
from voxelsam.formats._dicom_series import spots
from voxelsam.space.grid import Grid

EVEN_MM = 0.01
"""A slice further than this from its place on an even grid is worth a notice; headers round to less."""
UNEVEN_MM, UNEVEN_STEPS = 0.1, 0.1
"""A slice further than this from its place on an even grid, in mm or in steps, is refused: the promise is 0.1 mm."""
TILT_MM = 0.05
"""Sideways shift of the last slice against the first, in mm, from which a stack counts as tilted."""
GAP_STEPS = 1.5
"""A step of that many times the usual one is a gap."""
THICKNESS = 0.02
"""Relative difference between the stated and the real distance of slices that is worth a notice."""
LARGEST_FILL = 10
"""A series may get at most that many times its own number of slices when gaps are filled."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Instants = tuple[tuple[Plane, ...], ...]
"""The planes of each time point, in the order of k."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of k, and where they lie."""

    planes: tuple[Plane, ...]
    grid: Grid
    fill: Float64[np.ndarray, " k"] | None = None
    """Fractional number of the plane for each k, where slices have to be resampled onto an even grid."""


Digests = Callable[[Sequence[Plane]], list[bytes]]
"""What is equal for planes with the same pixels, for each plane."""


def time_points(path: Path, planes: Sequence[Plane], digests: Digests) -> Instants:
    """Planes sorted into time points and slices; those that are there twice are dropped if the user accepts it.

    Args:
        path: For messages.
        planes: The planes of one part.
        digests: Asked only where planes may be copies of each other.

    Raises:
        GeometryError: DCM-01, planes are there twice; DCM-03, the planes at one position cannot be told apart, or
            some positions have more of them than others.
    """
    if planes[0].layout == "page":
        return tuple((plane,) for plane in planes)
    places = spots(planes)
    if max(map(len, places)) > 1:
        places = _without_copies(path, places, digests)
    counts = sorted({len(spot) for spot in places})
    if counts == [1]:
        return (tuple(spot[0] for spot in places),)
    if len(counts) > 1:
        raise GeometryError(
            f"{path}: no volume: {len(places)} positions, but {counts[0]} to {counts[-1]} different images at each; "
            "slices are missing, or several volumes are mixed: separate them",
            code="DCM-03",
        )
    if len(places) == 1 and not all(plane.timed for plane in places[0]):
        raise GeometryError(
            f"{path}: no volume: {counts[0]} different images at one and the same position, and nothing says that "
            f"they are time points ({places[0][0].entry.name}, {places[0][1].entry.name}); give one file by itself",
            code="DCM-03",
        )
    return tuple(tuple(spot[number] for spot in places) for number in range(counts[0]))


def judge(path: Path, planes: Sequence[Plane]) -> Stack:
    """Where the voxels of some slices lie.

    Args:
        path: For messages.
        planes: One per position, ascending along their normal; or a single film, page or picture of tiles.

    Returns:
        The planes in the order of k with their grid, RAS+ mm.

    Raises:
        GeometryError: DCM-01, DCM-08 or DCM-09, see the module.
    """
    first = planes[0]
    if first.trouble is not None:
        raise first.trouble
    if first.layout != "slice" or not first.placed:
        return _unplaced(path, planes)
    if not first.reference:
        checks.notice("DCM-08", f"{path}: place: no FrameOfReferenceUID, so nobody knows what the positions refer to")
    spacing = _in_plane(path, first)
    steps, fill, count = _steps(path, planes)
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(first.row) * spacing[0]
    affine[:3, 1] = np.asarray(first.column) * spacing[1]
    affine[:3, 2] = steps
    affine[:3, 3] = np.asarray(first.position)
    return Stack(tuple(planes), _grid(path, (*first.size, count), affine, "space"), fill)


def tell(path: Path, planes: Sequence[Plane], more: Sequence[tuple[Remark, str]] = ()) -> None:
    """Says once what was noted about some planes, with the number of files that it concerns.

    Args:
        path: For messages.
        planes: With their remarks.
        more: Further remarks, each with the name of its file.
    """
    noted = [(remark, plane.entry.name) for plane in planes for remark in plane.remarks]
    files: dict[Remark, list[str]] = {}
    for remark, name in dict.fromkeys([*noted, *more]):
        files.setdefault(remark, []).append(name)
    for (code, text), names in files.items():
        where = f" ({len(names)} files, the first: {names[0]})" if len(names) > 1 else ""
        checks.notice(code, f"{names[0] if len(names) == 1 else path}: {text}{where}")


def _without_copies(path: Path, places: list[list[Plane]], digests: Digests) -> list[list[Plane]]:
    """Places without planes that are there twice, with the same pixels."""
    counts = {len(spot) for spot in places}
    alike = len(counts) == 1 and not any(_same_object(spot) for spot in places)
    if alike and len(set(digests(places[0]))) == len(places[0]):
        return places
    doubtful = [plane for spot in places if len(spot) > 1 for plane in spot]
    own = dict(zip(doubtful, digests(doubtful), strict=True))
    kept, copies = [], []
    for spot in places:
        seen: dict[bytes, Plane] = {}
        for plane in spot:
            said = own.get(plane, b"")
            if said in seen:
                copies.append((seen[said], plane))
            else:
                seen[said] = plane
        kept.append(list(seen.values()))
    blank = alike and len({len(spot) for spot in kept}) > 1
    if not copies or blank:
        return places
    first, second = copies[0]
    checks.refuse(
        "DCM-01",
        f"{path}: duplicate: {len(copies)} of the slices are copies of others (same position, same pixels), such as "
        f"{first.entry.name} and {second.entry.name}; remove the copies (if accepted, they are left out)",
        GeometryError,
    )
    return kept


def _same_object(spot: Sequence[Plane]) -> bool:
    return len({(plane.instance, plane.frame) for plane in spot}) < len(spot)


def _unplaced(path: Path, planes: Sequence[Plane]) -> Stack:
    """Images without a place in a patient: on axes of an axial slice, as pictures are."""
    first = planes[0]
    if first.modality in SECTIONS:
        text = f"{path}: place: no ImagePositionPatient or ImageOrientationPatient"
        if len(planes) > 1:
            checks.refuse(
                "DCM-08",
                f"{text} in {len(planes)} images, so nobody knows whether and in which order they lie side by side; "
                "get the original series (if accepted, they are stacked by their instance numbers)",
                GeometryError,
            )
        else:
            checks.notice("DCM-08", f"{text}: where the image lies in the patient is unknown")
    if first.spacing is None:
        checks.notice("DCM-08", f"{path}: place: no pixel spacing; pixels count as 1 mm apart")
    across, down = first.spacing or (1.0, 1.0)
    film = first.layout == "film"
    count = first.count if film else len(planes)
    step = first.seconds if film else first.stated or first.thickness or 1.0
    along = "time" if film else "space" if count > 1 else "single"
    return Stack(tuple(planes), _grid(path, (*first.size, count), np.diag([across, down, step, 1.0]), along))


def _in_plane(path: Path, plane: Plane) -> tuple[float, float]:
    if plane.spacing is None:
        checks.refuse(
            "DCM-08",
            f"{path}: place: positions, but no PixelSpacing, so that nothing in the plane can be measured; get the "
            "original series (if accepted, pixels count as 1 mm apart)",
            GeometryError,
        )
    return plane.spacing or (1.0, 1.0)


def _steps(
    path: Path, planes: Sequence[Plane]
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, " k"] | None, int]:
    """From slice to slice in LPS mm, which planes to mix for an even grid, and the number of slices."""
    first, normal = planes[0], planes[0].normal
    if len(planes) == 1:
        step = first.stated or first.thickness or 1.0
        return normal * step, None, 1
    places = np.array([plane.position for plane in planes])
    way = places[-1] - places[0]
    along = (places - places[0]) @ normal
    increments = np.diff(along)
    usual = float(np.median(increments))
    even = np.linspace(0, 1, len(planes))
    off = float(np.linalg.norm(places - places[0] - even[:, None] * way, axis=1).max())
    limit = min(UNEVEN_MM, UNEVEN_STEPS * usual)
    _check_sideways(path, places, along, limit)
    fill, count = None, len(planes)
    if off > limit:
        count = round(float(along[-1]) / usual) + 1
        checks.refuse("DCM-01", _uneven(path, planes, increments, usual, off, count), GeometryError)
        if not 1 < count <= LARGEST_FILL * len(planes):
            raise GeometryError(
                f"{path}: gap: filling it would take {count} slices for {len(planes)}; separate the slices",
                code="DCM-01",
            )
        fill = np.interp(np.linspace(0, 1, count), along / along[-1], np.arange(len(planes), dtype=np.float64))
    elif off > EVEN_MM:
        checks.notice(
            "DCM-01",
            f"{path}: irregular step: slices are {increments.min():.4g} to {increments.max():.4g} mm apart and "
            f"taken as evenly spaced, which moves them by up to {off:.2g} mm",
        )
    steps = way / (count - 1)
    _notice_tilt(path, way, normal)
    _notice_thickness(path, first, float(along[-1]) / (count - 1))
    return steps, fill, count


def _check_sideways(
    path: Path, places: Float64[np.ndarray, "n 3"], along: Float64[np.ndarray, " n"], limit: float
) -> None:
    """Refuses slices whose first pixels are on no straight line."""
    line = places[0] + (along / along[-1])[:, None] * (places[-1] - places[0])
    off = float(np.linalg.norm(places - line, axis=1).max())
    if off > limit:
        raise GeometryError(
            f"{path}: no volume: slices are shifted sideways against each other by up to {off:.3g} mm (allowed: "
            f"{limit:.2g} mm), which no grid of voxels can say; resample the series first",
            code="DCM-01",
        )


def _uneven(
    path: Path, planes: Sequence[Plane], increments: Float64[np.ndarray, " n"], usual: float, off: float, count: int
) -> str:
    wide = int(increments.argmax())
    gap = increments[wide] > GAP_STEPS * usual
    between = f"{planes[wide].entry.name} and {planes[wide + 1].entry.name}"
    what = (
        f"gap: {increments[wide]:.4g} mm between {between}, elsewhere {usual:.4g} mm; slices are missing"
        if gap
        else f"irregular step: slices are {increments.min():.4g} to {increments.max():.4g} mm apart"
    )
    return (
        f"{path}: {what}; evenly spaced they would be wrong by up to {off:.3g} mm; get the whole series (if accepted, "
        f"they are resampled linearly onto {count} slices from the first to the last position)"
    )


def _notice_tilt(path: Path, way: Float64[np.ndarray, " 3"], normal: Float64[np.ndarray, " 3"]) -> None:
    sideways = float(np.linalg.norm(way - (way @ normal) * normal))
    if sideways <= TILT_MM:
        return
    angle = float(np.degrees(np.arctan2(sideways, way @ normal)))
    checks.notice(
        "DCM-02",
        f"{path}: tilt: slices are stacked {angle:.3g} degrees off their normal (the last lies {sideways:.3g} mm to "
        "the side of the first); the grid is sheared, as the positions say",
    )


def _notice_thickness(path: Path, plane: Plane, step: float) -> None:
    stated, tag = (
        (plane.stated, "SpacingBetweenSlices") if plane.stated is not None else (plane.thickness, "SliceThickness")
    )
    if stated is not None and abs(stated - step) > THICKNESS * step:
        checks.notice(
            "DCM-01",
            f"{path}: thickness: {tag} is {stated:.4g} mm, but slices are {step:.4g} mm apart; the positions count",
        )


def _grid(path: Path, shape: tuple[int, int, int], affine: Float64[np.ndarray, "4 4"], along: str) -> Grid:
    try:
        return Grid(shape, LPS_TO_RAS @ affine, along)  # type: ignore[arg-type]
    except GeometryError as error:
        raise GeometryError(f"{path}: the header gives no usable geometry: {error}", code="DCM-09") from None
