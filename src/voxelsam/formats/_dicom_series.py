"""What lies in a heap of DICOM files: planes, grouped into the parts that can be volumes.

A plane is one slice: a file, or a frame of a multi-frame object. Planes of one series that cannot lie in one volume
(another orientation, size or pixel spacing) are parts of their own, and so are the echoes, b-values or kinds of image
that were taken at the same positions. What is left at the same positions are time points.

Positions here are DICOM's: LPS millimetres of the centre of a plane's first pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from voxelsam.errors import FormatError, GeometryError, InputError
from voxelsam.formats._dicom_files import LABELS, Entry, quiet

SAME_DIRECTION = 1e-3
"""Largest difference between direction cosines of planes that lie parallel: 0.3 mm at the end of 300 mm."""
SAME_SPACING = 1e-3
"""Largest relative difference between the pixel spacings of one volume."""
SAME_PLACE_MM = 0.01
"""Planes closer than this along their normal are at one position; headers round to less."""
UNIT = 1e-3
"""How far the length of direction cosines may be from 1, and their product from 0, without a word."""

SECTIONS = ("CT", "MR", "PT", "NM")
"""Modalities whose images are sections of a patient, with a position each."""
FILMS = ("US", "IVUS", "XA", "RF", "ES", "XC", "OP", "GM", "DG", "IVOCT", "OPT")
"""Modalities whose frames follow each other in time unless they have positions."""

_TILED = "1.2.840.10008.5.1.4.1.1.77.1.6"
_ULTRASOUND_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"
_NOT_IMAGES = (
    *LABELS,
    "1.2.840.10008.1.3.10",  # directory of other files
    "1.2.840.10008.5.1.4.1.1.481.2",  # radiation dose
)
_B_VALUES = ((0x0019, 0x100C), (0x2001, 0x1003), (0x0043, 0x1039))

Vector = Float64[np.ndarray, " 3"]
Remark = tuple[str, str]
"""Code and text of something worth a notice."""


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
class Plane:
    """One slice, or all frames of a film, as the header says it."""

    entry: Entry
    dataset: Any
    """Header of its file, without pixels."""
    frame: int | None
    """Number in a multi-frame object."""
    uid: str
    instance: str
    modality: str
    reference: str
    """FrameOfReferenceUID."""
    size: tuple[int, int]
    """Columns and rows."""
    colours: bool
    layout: Literal["slice", "film", "page", "tiles"] = "slice"
    count: int = 1
    """Frames of its file."""
    seconds: float = 1.0
    """Between the frames of a film."""
    row: Vector | None = None
    """Direction of increasing column numbers, of length 1."""
    column: Vector | None = None
    """Direction of increasing row numbers, of length 1."""
    position: Vector | None = None
    spacing: tuple[float, float] | None = None
    """Millimetres between columns (along i) and between rows (along j)."""
    thickness: float | None = None
    stated: float | None = None
    """SpacingBetweenSlices."""
    instant: tuple[float, ...] = ()
    """What orders time points."""
    timed: bool = False
    """Whether the header says that it is one of several time points."""
    traits: tuple[tuple[str, str], ...] = ()
    """What may tell two planes at one position apart."""
    slope: float | None = None
    intercept: float | None = None
    remarks: tuple[Remark, ...] = ()
    trouble: InputError | None = None
    """Raised when it is chosen."""

    @property
    def normal(self) -> Vector:
        """Along which slices are stacked."""
        assert self.row is not None and self.column is not None  # noqa: PT018, S101
        return np.asarray(np.cross(self.row, self.column), np.float64)

    @property
    def placed(self) -> bool:
        """Whether it is known where in the patient it lies."""
        return self.row is not None and self.position is not None


@dataclass(frozen=True, eq=False)
class Part:
    """Planes that may be a volume."""

    planes: tuple[Plane, ...]
    series: Series = field(default=Series("", 0, "", "", "", 0, 0, (0, 0), ""))


def planes_of(entry: Entry) -> tuple[Plane, ...]:
    """The planes of a DICOM file; none if it is no image.

    Raises:
        FormatError: SET-03, the file cannot be read.
    """
    dataset = entry.dataset(pixels=False)
    with quiet():
        facts = _Facts(entry, dataset)
        if not_image(dataset):
            return ()
        size = (facts.whole("Columns"), facts.whole("Rows"))
        try:
            return _planes(facts, size)
        except InputError as trouble:
            return (_plane(facts, size, trouble=trouble),)


def not_image(dataset: Any) -> str:
    """What a DICOM object is that cannot be read as an image; empty for images."""
    with quiet():
        facts = _Facts(None, dataset)
        uid = facts.text("SOPClassUID") or facts.text("MediaStorageSOPClassUID", dataset.file_meta)
        whole = facts.whole("Columns") > 0 and facts.whole("Rows") > 0
    if whole and uid not in _NOT_IMAGES:
        return ""
    from pydicom.uid import UID

    name = (UID(uid).name if uid else "") or facts.text("Modality") or "an object"
    return name if uid in _NOT_IMAGES or "Image" not in name else f"{name} without rows and columns"


def parts_of(planes: Sequence[Plane]) -> tuple[Part, ...]:
    """Planes grouped into what can be a volume, in the order of first appearance, listed."""
    grouped = [group for series in _by(planes, lambda plane: plane.uid) for group in _parts(series)]
    uids = [group[0].uid for group, _ in grouped]
    parts = []
    for number, (group, note) in enumerate(grouped):
        uid = uids[number]
        place = uids[:number].count(uid) + 1
        key = f"{uid}#{place}" if uids.count(uid) > 1 else uid or str(number + 1)
        parts.append(Part(tuple(group), _listed(group, key, number + 1, note)))
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


class _Facts:
    """The values of a data set, or of one frame of it, whatever state they are in."""

    def __init__(self, entry: Entry | None, dataset: Any, frame: int | None = None) -> None:
        self.entry, self.dataset, self.frame = entry, dataset, frame
        self.remarks: list[Remark] = []

    def numbers(self, keyword: str, count: int, group: str = "") -> tuple[float, ...] | None:
        """That many finite numbers; None where there are none, or others."""
        for home in self._homes(group):
            values = self._values(home, keyword)
            if not values:
                continue
            try:
                found = tuple(float(str(value).replace(",", ".")) for value in values)
            except (TypeError, ValueError):
                self.remarks.append(("DCM-09", f"{keyword} is no number and is left out"))
                continue
            if len(found) == count and np.isfinite(found).all():
                if any("," in str(value) for value in values):
                    self.remarks.append(("DCM-09", f"{keyword} is malformed: a comma is taken as a point"))
                return found
            self.remarks.append(("DCM-09", f"{keyword} should be {count} finite numbers and is left out"))
        return None

    def number(self, keyword: str, group: str = "") -> float | None:
        """One finite number, or None."""
        found = self.numbers(keyword, 1, group)
        return found[0] if found else None

    def positive(self, keyword: str, group: str = "") -> float | None:
        """One number above zero, or None."""
        found = self.number(keyword, group)
        return found if found is not None and found > 0 else None

    def whole(self, keyword: str) -> int:
        """A count; 0 where there is none."""
        found = self.number(keyword)
        return int(found) if found is not None and 0 < found < 2**31 else 0

    def text(self, keyword: Any, home: Any = None, group: str = "") -> str:
        """A value as text; several joined by backslashes; empty where there is none."""
        for place in [home] if home is not None else self._homes(group):
            try:
                element = place.get(keyword)
                value = getattr(element, "value", element)
                several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
                found = "\\".join(map(str, value)) if several else "" if value is None else str(value)
            except Exception:  # noqa: S112
                continue
            if found.strip():
                return found.strip()
        return ""

    def item(self, home: Any, keyword: str, number: int = 0) -> Any:
        """An item of a sequence, or None."""
        try:
            return home.get(keyword)[number]
        except Exception:
            return None

    def length(self, keyword: str) -> int:
        """Items of a sequence; 0 where there is none."""
        try:
            return len(self.dataset.get(keyword) or ())
        except Exception:
            return 0

    def in_groups(self, keyword: str, group: str) -> bool:
        """Whether a value stands in a functional group, rather than in the data set."""
        return any(self._values(home, keyword) for home in self._homes(group)[:-1])

    def _homes(self, group: str) -> list[Any]:
        """Where a value may stand: the frame's functional group, the shared one, the data set."""
        if not group:
            return [self.dataset]
        frame = None
        if self.frame is not None:
            frame = self.item(self.dataset, "PerFrameFunctionalGroupsSequence", self.frame)
        shared = self.item(self.dataset, "SharedFunctionalGroupsSequence")
        groups = [self.item(home, group) for home in (frame, shared) if home is not None]
        return [home for home in (*groups, self.dataset) if home is not None]

    def _values(self, home: Any, keyword: str) -> list[Any]:
        try:
            value = home.get(keyword)
        except Exception:
            value = self._raw(home, keyword)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        if isinstance(value, str):
            value = [text.strip("\0 ") for text in value.split("\\")]
        if value is None:
            return []
        try:
            return [entry for entry in value if entry is not None and entry != ""]
        except TypeError:
            return [value]

    def _raw(self, home: Any, keyword: str) -> Any:
        """The bytes of a value that pydicom cannot make sense of."""
        try:
            return home.get_item(keyword).value
        except Exception:
            return None


def _planes(facts: _Facts, size: tuple[int, int]) -> tuple[Plane, ...]:
    """The planes of one object."""
    dataset, frames = facts.dataset, facts.whole("NumberOfFrames") or 1
    if facts.text("SOPClassUID") == _TILED and facts.whole("TotalPixelMatrixColumns"):
        whole = (facts.whole("TotalPixelMatrixColumns"), facts.whole("TotalPixelMatrixRows"))
        return (_plane(facts, whole, layout="tiles", count=frames),)
    if facts.length("PerFrameFunctionalGroupsSequence") or facts.length("SharedFunctionalGroupsSequence"):
        return _functional(facts, size, frames)
    if frames == 1:
        return (_plane(facts, size),)
    return _frames(facts, dataset, size, frames)


def _functional(facts: _Facts, size: tuple[int, int], frames: int) -> tuple[Plane, ...]:
    """Frames whose places stand in functional groups."""
    found = facts.length("PerFrameFunctionalGroupsSequence")
    if found == 0 and facts.text("Modality") not in SECTIONS:
        return _frames(facts, facts.dataset, size, frames) if frames > 1 else (_plane(facts, size),)
    if facts.text("SOPClassUID") == _ULTRASOUND_VOLUME:
        raise _incomplete(facts, "an ultrasound volume lies in its transducer's space")
    if found != frames:
        raise _incomplete(facts, f"{frames} frames, but functional groups of {found}")
    planes = []
    for number in range(frames):
        own = _Facts(facts.entry, facts.dataset, number)
        plane = _plane(own, size, frame=number, count=frames)
        if not plane.placed or plane.spacing is None:
            if plane.modality not in SECTIONS:
                return _frames(facts, facts.dataset, size, frames) if frames > 1 else (plane,)
            raise _incomplete(facts, f"frame {number + 1} of {frames} has no position, orientation or pixel spacing")
        planes.append(replace(plane, remarks=(*plane.remarks, *_borrowed(own))))
    return tuple(planes)


def _borrowed(facts: _Facts) -> tuple[Remark, ...]:
    """What is said about the place of a frame outside of its functional groups."""
    homes = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
    }
    lost = [keyword for keyword, group in homes.items() if not facts.in_groups(keyword, group)]
    if not lost:
        return ()
    return (("DCM-04", f"{' and '.join(lost)} stand outside of the functional groups; taken for all frames"),)


def _incomplete(facts: _Facts, what: str) -> FormatError:
    name = facts.entry.name if facts.entry else ""
    return FormatError(
        f"{name}: multi-frame object whose functional groups are incomplete ({what}), so that nobody knows where the "
        "frames lie; export it again from the archive or the scanner",
        code="DCM-04",
    )


def _frames(facts: _Facts, dataset: Any, size: tuple[int, int], frames: int) -> tuple[Plane, ...]:
    """Frames without a position each: evenly spaced slices, a film, or pictures side by side."""
    first = _plane(facts, size, frame=0, count=frames)
    step = facts.number("SpacingBetweenSlices")
    if first.placed and first.position is not None and first.modality in SECTIONS:
        if not step or first.spacing is None:
            raise _incomplete(facts, f"{frames} frames with one position and no SpacingBetweenSlices")
        remark = ("DCM-04", f"{frames} frames with one position: taken as {step:g} mm apart along their normal")
        places = [first.position + number * step * first.normal for number in range(frames)]
        return tuple(
            _plane(facts, size, frame=n, count=frames, position=place, remarks=(remark,))
            for n, place in enumerate(places)
        )
    seconds, remarks = _seconds(facts)
    if seconds is not None or first.modality in FILMS:
        return (_plane(facts, size, layout="film", count=frames, seconds=seconds or 1.0, remarks=remarks),)
    if first.modality in SECTIONS:
        raise _incomplete(facts, f"{frames} frames without a position")
    return tuple(_plane(facts, size, frame=number, count=frames, layout="page") for number in range(frames))


def _seconds(facts: _Facts) -> tuple[float | None, tuple[Remark, ...]]:
    """Seconds between the frames of a film; None where nobody says."""
    if step := facts.positive("FrameTime"):
        return step / 1000, ()
    count = facts.whole("NumberOfFrames")
    if count > 1 and (steps := facts.numbers("FrameTimeVector", count)) and sum(steps[1:]) > 0:
        mean = float(np.mean(steps[1:]))
        uneven = max(steps[1:]) - min(steps[1:]) > 0.01 * mean
        remark = ("DCM-06", f"frames are not evenly spaced in time; {mean:g} ms is their mean distance")
        return mean / 1000, (remark,) if uneven else ()
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        if rate := facts.positive(keyword):
            return 1 / rate, ()
    return None, (("DCM-06", "no FrameTime and no CineRate: frames count as one second apart"),)


def _plane(
    facts: _Facts,
    size: tuple[int, int],
    *,
    position: Vector | None = None,
    remarks: tuple[Remark, ...] = (),
    **known: Any,
) -> Plane:
    """What the header says about one plane."""
    assert facts.entry is not None  # noqa: S101
    facts.remarks = []
    row, column = _directions(facts)
    if position is None and (found := _vector(facts, "ImagePositionPatient", 3, "PlanePositionSequence")) is not None:
        position = found
    modality = facts.text("Modality")
    instant, timed = _instant(facts)
    place: dict[str, Any] = {
        "row": row,
        "column": column,
        "position": position,
        "spacing": _spacing(facts),
        "thickness": facts.positive("SliceThickness", "PixelMeasuresSequence"),
        "stated": _absolute(facts.number("SpacingBetweenSlices", "PixelMeasuresSequence")),
        "slope": facts.number("RescaleSlope", "PixelValueTransformationSequence"),
        "intercept": facts.number("RescaleIntercept", "PixelValueTransformationSequence"),
    }
    if not modality:
        facts.remarks.append(("DCM-09", "no Modality: what made the image counts as unknown"))
    return Plane(
        entry=facts.entry,
        dataset=facts.dataset,
        frame=known.pop("frame", None),
        uid=facts.text("SeriesInstanceUID"),
        instance=facts.text("SOPInstanceUID"),
        modality=modality,
        reference=facts.text("FrameOfReferenceUID"),
        size=size,
        colours=facts.whole("SamplesPerPixel") > 1 or facts.text("PhotometricInterpretation") == "PALETTE COLOR",
        instant=instant,
        timed=timed,
        traits=_traits(facts),
        remarks=(*facts.remarks, *remarks),
        **place,
        **known,
    )


def _absolute(value: float | None) -> float | None:
    return abs(value) if value else None


def _vector(facts: _Facts, keyword: str, count: int, group: str) -> Float64[np.ndarray, " n"] | None:
    found = facts.numbers(keyword, count, group)
    if found is None:
        detector = facts.item(facts.dataset, "DetectorInformationSequence")
        found = _Facts(facts.entry, detector).numbers(keyword, count) if detector is not None else None
    return None if found is None else np.array(found, np.float64)


def _directions(facts: _Facts) -> tuple[Vector | None, Vector | None]:
    """Directions of rows and columns, of length 1 and at right angles.

    Raises:
        GeometryError: DCM-09, they span no plane.
    """
    cosines = _vector(facts, "ImageOrientationPatient", 6, "PlaneOrientationSequence")
    if cosines is None:
        return None, None
    row, column = cosines[:3], cosines[3:]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        product = float(row @ column / lengths.prod())
    if not (np.isfinite(lengths).all() and lengths.min() > 0.1 and abs(product) < 0.1):
        name = facts.entry.name if facts.entry else ""
        raise GeometryError(
            f"{name}: ImageOrientationPatient should be two directions at right angles, but is {cosines.tolist()}; "
            "correct the header, or export it again",
            code="DCM-09",
        )
    if np.abs(lengths - 1).max() > UNIT or abs(product) > UNIT:
        facts.remarks.append(("DCM-09", "ImageOrientationPatient is not two unit vectors at right angles: made so"))
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _spacing(facts: _Facts) -> tuple[float, float] | None:
    """Millimetres along i and j: DICOM names the distance of rows first."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        found = facts.numbers(keyword, 2, "PixelMeasuresSequence" if keyword == "PixelSpacing" else "")
        if found and min(found) > 0:
            return found[1], found[0]
        if found:
            facts.remarks.append(("DCM-09", f"{keyword} is not positive and is left out"))
    region = facts.item(facts.dataset, "SequenceOfUltrasoundRegions")
    if region is None or facts.length("SequenceOfUltrasoundRegions") != 1:
        return None
    inside = _Facts(facts.entry, region)
    steps = [inside.number(f"PhysicalDelta{axis}") for axis in "XY"]
    units = [inside.number(f"PhysicalUnits{axis}Direction") for axis in "XY"]
    if units != [3, 3] or not all(steps):
        return None
    return abs(steps[0] or 0) * 10, abs(steps[1] or 0) * 10


def _instant(facts: _Facts) -> tuple[tuple[float, ...], bool]:
    """What orders the planes at one position in time, and whether it truly says time."""
    content = "FrameContentSequence"
    true = [
        facts.number("TemporalPositionIdentifier"),
        facts.number("TemporalPositionIndex", content),
        facts.number("TriggerTime"),
        facts.number("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
        facts.number("FrameReferenceTime"),
    ]
    other = [facts.number("AcquisitionNumber"), facts.number("InstanceNumber"), float(facts.frame or 0)]
    return tuple(-1.0 if value is None else value for value in (*true, *other)), any(
        value is not None for value in true
    )


def _traits(facts: _Facts) -> tuple[tuple[str, str], ...]:
    """What differs between volumes that were taken at the same positions on purpose."""
    frame_type = facts.text("FrameType", group="MRImageFrameTypeSequence") if facts.frame is not None else ""
    echo = facts.text("EffectiveEchoTime", group="MREchoSequence") or facts.text("EchoTime")
    b_value = _plain(facts.text("DiffusionBValue", group="MRDiffusionSequence"))
    b_value = b_value or next((found for tag in _B_VALUES if (found := _plain(facts.text(tag)))), "")
    kind = frame_type or facts.text("ImageType")
    return (
        ("image type", "\\".join(kind.split("\\")[2:])),
        ("echo time", echo),
        ("b-value", b_value),
        ("inversion time", facts.text("InversionTime")),
    )


def _plain(b_value: str) -> str:
    """A b-value without what a vendor packs into it: the first of several numbers, what is above 1e9 left out."""
    first, *_ = b_value.split("\\")
    try:
        return f"{float(first) % 1e9:g}"
    except ValueError:
        return ""


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
    return plane.size, plane.colours, plane.reference, plane.layout, plane.placed, plane.entry.name if alone else ""


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
        description = _Facts(None, first.dataset).text("SeriesDescription")
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
