"""What lies in a heap of DICOM files: planes, grouped into the parts that can be volumes.

Planes of one series that cannot lie in one volume (another orientation, size or pixel spacing) are parts of their own,
and so are the echoes, b-values or kinds of image that were taken at the same positions. What is left at the same
positions are time points.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxelsam.formats._dicom_facts import Facts
from voxelsam.formats._dicom_files import quiet
from voxelsam.formats._dicom_plane import SECTIONS, Plane

SAME_DIRECTION = 1e-3
"""Largest difference between direction cosines of planes that lie parallel: 0.3 mm at the end of 300 mm."""
SAME_SPACING = 1e-3
"""Largest relative difference between the pixel spacings of one volume."""
SAME_PLACE_MM = 0.01
"""Planes closer than this along their normal are at one position; headers round to less."""


@dataclass(frozen=True)
class DicomHeader:
    """The headers of an image, without pixels."""

    datasets: tuple[Any, ...]
    """One for each k, in its order; of a multi-frame object, the single one."""
    frames: tuple[int, ...] = ()
    """Of a multi-frame object: the number of the frame, from 0, of each k."""
    resampled: bool = False
    """Whether the slices were resampled onto an even grid: there are then other k than data sets."""


@dataclass(frozen=True)
class Series:
    """A series, or a part of one, that can be chosen."""

    key: str
    """What to choose it by: its UID, with ``#2`` for the second part of a series that was split."""
    number: int
    """Its place in the listing, from 1."""
    uid: str
    """SeriesInstanceUID."""
    description: str
    """SeriesDescription, for listings that the user asked for."""
    modality: str
    slices: int
    frames: int
    """Time points, or pictures that do not belong into one volume."""
    size: tuple[int, int]
    """Columns and rows."""
    orientation: str
    """``axial``, ``coronal``, ``sagittal``, with ``oblique`` before it if it is; empty without orientation."""
    note: str = ""
    """What sets it apart from other parts of its series."""

    def __str__(self) -> str:
        slices = "1 slice" if self.slices == 1 else f"{self.slices} slices"
        frames = f", {self.frames} frames" if self.frames > 1 else ""
        said = [f"{self.number}: {self.key}", f"{self.modality or 'no modality'}, {slices}{frames}"]
        said += [f"{self.size[0]} x {self.size[1]} pixels", self.orientation or "no orientation", self.note]
        return ", ".join(text for text in said if text)


@dataclass(frozen=True, eq=False)
class Part:
    """Planes that may be a volume."""

    planes: tuple[Plane, ...]
    series: Series = field(default=Series("", 0, "", "", "", 0, 0, (0, 0), ""))


def parts_of(planes: Sequence[Plane]) -> tuple[Part, ...]:
    """Planes grouped into what can be a volume, in the order of first appearance, listed."""
    grouped = [group for series in _by(planes, lambda plane: plane.uid) for group in _parts(series)]
    counts = Counter(group[0].uid for group, _ in grouped)
    listed: Counter[str] = Counter()
    parts = []
    for number, (group, note) in enumerate(grouped, 1):
        uid = group[0].uid
        listed[uid] += 1
        key = f"{uid}#{listed[uid]}" if counts[uid] > 1 else uid or str(number)
        parts.append(Part(tuple(group), _listed(group, key, number, note)))
    return tuple(parts)


def spots(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes by their position along the normal, ascending; those at one position in the order of time.

    Args:
        planes: Parallel planes with a position each; without positions each is a spot of its own.
    """
    if not all(plane.placed for plane in planes):
        return [[plane] for plane in sorted(planes, key=lambda plane: plane.instant)]
    normal = planes[0].normal
    along = np.array([float(plane.position @ normal) for plane in planes if plane.position is not None])
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    wide = steps[steps > SAME_PLACE_MM / 10]
    near = min(SAME_PLACE_MM, 0.1 * float(np.median(wide))) if len(wide) else SAME_PLACE_MM
    found: list[list[Plane]] = [[planes[order[0]]]]
    for number, step in zip(order[1:], steps, strict=True):
        if step > near:
            found.append([])
        found[-1].append(planes[number])
    return [sorted(spot, key=lambda plane: plane.instant) for spot in found]


def _by(planes: Sequence[Plane], key: Callable[[Plane], Any]) -> list[list[Plane]]:
    groups: dict[Any, list[Plane]] = {}
    for plane in planes:
        groups.setdefault(key(plane), []).append(plane)
    return list(groups.values())


def _parts(series: Sequence[Plane]) -> list[tuple[list[Plane], str]]:
    """The parts of one series, and what sets each apart."""
    parts: list[tuple[list[Plane], str]] = []
    for group in _by(series, _hard):
        for parallel in _parallel(group):
            parts += _told_apart(parallel, "")
    return parts


def _hard(plane: Plane) -> Any:
    """Planes where this differs never lie in one volume."""
    alone = plane.trouble is not None or plane.count > 1 or not (plane.placed or plane.modality in SECTIONS)
    return plane.size, plane.colours, plane.reference, plane.layout, plane.placed, plane.entry if alone else None


def _parallel(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes of one orientation and pixel spacing."""
    groups: list[list[Plane]] = []
    for plane in planes:
        home = next((group for group in groups if _alike(group[0], plane)), None)
        if home is None:
            groups.append([plane])
        else:
            home.append(plane)
    return groups


def _alike(first: Plane, second: Plane) -> bool:
    if (first.spacing is None) != (second.spacing is None) or (first.row is None) != (second.row is None):
        return False
    if first.spacing and not np.allclose(first.spacing, second.spacing or 0, rtol=SAME_SPACING, atol=0):
        return False
    if first.row is None or second.row is None or first.column is None or second.column is None:
        return True
    apart = np.abs(np.concatenate([first.row - second.row, first.column - second.column]))
    return bool(apart.max() <= SAME_DIRECTION)


def _told_apart(planes: list[Plane], note: str) -> list[tuple[list[Plane], str]]:
    """Planes split by the traits that tell those at one position apart."""
    again = _repeats(planes)
    if again:
        for number, (name, _) in enumerate(planes[0].traits):
            groups = _by(planes, lambda plane, number=number: plane.traits[number][1])  # type: ignore[misc]
            if len(groups) > 1 and sum(_repeats(group) for group in groups) < again:
                return [
                    part
                    for group in groups
                    for part in _told_apart(
                        group, ", ".join(filter(None, (note, f"{name} {group[0].traits[number][1]}")))
                    )
                ]
    return [(planes, note)]


def _repeats(planes: Sequence[Plane]) -> int:
    """How many planes lie where another one does."""
    return len(planes) - len(spots(planes))


def _listed(planes: Sequence[Plane], key: str, number: int, note: str) -> Series:
    first = planes[0]
    places = spots(planes)
    with quiet():
        description = Facts(None, first.dataset).text("SeriesDescription")
    pages = first.layout == "page"
    return Series(
        key=key,
        number=number,
        uid=first.uid,
        description=description,
        modality=first.modality,
        slices=first.count if first.layout == "film" else 1 if pages else len(places),
        frames=len(planes) if pages else max(len(spot) for spot in places),
        size=first.size,
        orientation=_orientation(first),
        note=note or ("cannot be read" if first.trouble else ""),
    )


def _orientation(plane: Plane) -> str:
    if plane.row is None:
        return ""
    normal = np.abs(plane.normal)
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return name if normal.max() > 0.999 else f"oblique {name}"
