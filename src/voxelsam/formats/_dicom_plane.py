"""The planes of a DICOM object, as its header says them: a plane is one slice, a file or a frame of it, or a film.

Positions here are DICOM's: LPS millimetres of the centre of a plane's first pixel.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from voxelsam.errors import FormatError, GeometryError, InputError
from voxelsam.formats._dicom_facts import Facts, Remark
from voxelsam.formats._dicom_files import Entry, quiet
from voxelsam.formats._dicom_sop import LABELS

UNIT = 1e-3
"""How far the length of direction cosines may be from 1, and their product from 0, without a word."""

SECTIONS = ("CT", "MR", "PT", "NM")
"""Modalities whose images are sections of a patient, with a position each."""
FILMS = ("US", "IVUS", "XA", "RF", "ES", "XC", "OP", "GM", "DG", "IVOCT", "OPT")

MOST_FRAMES = 100_000
"""More frames than any object has: the count in the header is wrong."""

_TILED = "1.2.840.10008.5.1.4.1.1.77.1.6"
_ULTRASOUND_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"
_NOT_IMAGES = (
    *LABELS,
    "1.2.840.10008.1.3.10",  # directory of other files
    "1.2.840.10008.5.1.4.1.1.481.2",  # radiation dose
)
_B_VALUES = ((0x0019, 0x100C), (0x2001, 0x1003), (0x0043, 0x1039))

Vector = Float64[np.ndarray, " 3"]


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


def planes_of(entry: Entry) -> tuple[Plane, ...]:
    """The planes of a DICOM file; none if it is no image.

    Raises:
        FormatError: SET-03, the file cannot be read.
    """
    dataset = entry.dataset(pixels=False)
    with quiet():
        facts = Facts(entry, dataset)
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
        facts = Facts(None, dataset)
        uid = facts.text("SOPClassUID") or facts.text("MediaStorageSOPClassUID", dataset.file_meta)
        whole = facts.whole("Columns") > 0 and facts.whole("Rows") > 0
    if whole and uid not in _NOT_IMAGES:
        return ""
    from pydicom.uid import UID

    name = (UID(uid).name if uid else "") or facts.text("Modality") or "an object"
    return name if uid in _NOT_IMAGES or "Image" not in name else f"{name} without rows and columns"


def _planes(facts: Facts, size: tuple[int, int]) -> tuple[Plane, ...]:
    """The planes of one object."""
    dataset, frames = facts.dataset, facts.whole("NumberOfFrames") or 1
    if frames > MOST_FRAMES:
        name = facts.entry.name if facts.entry else ""
        raise FormatError(f"{name}: the header promises {frames} frames; fetch or export it again", code="SET-03")
    if facts.text("SOPClassUID") == _TILED and facts.whole("TotalPixelMatrixColumns"):
        whole = (facts.whole("TotalPixelMatrixColumns"), facts.whole("TotalPixelMatrixRows"))
        return (_plane(facts, whole, layout="tiles", count=frames),)
    if facts.length("PerFrameFunctionalGroupsSequence") or facts.length("SharedFunctionalGroupsSequence"):
        return _functional(facts, size, frames)
    if frames == 1:
        return (_plane(facts, size),)
    return _frames(facts, dataset, size, frames)


def _functional(facts: Facts, size: tuple[int, int], frames: int) -> tuple[Plane, ...]:
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
        own = Facts(facts.entry, facts.dataset, number)
        plane = _plane(own, size, frame=number, count=frames)
        if not plane.placed or plane.spacing is None:
            if plane.modality not in SECTIONS:
                return _frames(facts, facts.dataset, size, frames) if frames > 1 else (plane,)
            raise _incomplete(facts, f"frame {number + 1} of {frames} has no position, orientation or pixel spacing")
        planes.append(replace(plane, remarks=(*plane.remarks, *_borrowed(own))))
    return tuple(planes)


def _borrowed(facts: Facts) -> tuple[Remark, ...]:
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


def _incomplete(facts: Facts, what: str) -> FormatError:
    name = facts.entry.name if facts.entry else ""
    return FormatError(
        f"{name}: multi-frame object whose functional groups are incomplete ({what}), so that nobody knows where the "
        "frames lie; export it again from the archive or the scanner",
        code="DCM-04",
    )


def _frames(facts: Facts, dataset: Any, size: tuple[int, int], frames: int) -> tuple[Plane, ...]:
    """Frames without a position each: evenly spaced slices, a film, or pictures side by side."""
    first = _plane(facts, size, frame=0, count=frames)
    step = facts.number("SpacingBetweenSlices")
    if first.placed and first.position is not None and first.modality in SECTIONS:
        if not step or first.spacing is None:
            raise _incomplete(facts, f"{frames} frames with one position and no SpacingBetweenSlices")
        remark = ("DCM-04", f"{frames} frames with one position: taken as {step:g} mm apart along their normal")
        return tuple(
            replace(first, frame=n, position=first.position + n * step * first.normal, remarks=(*first.remarks, remark))
            for n in range(frames)
        )
    seconds, remarks = _seconds(facts)
    if seconds is not None or first.modality in FILMS:
        return (_plane(facts, size, layout="film", count=frames, seconds=seconds or 1.0, remarks=remarks),)
    if first.modality in SECTIONS:
        raise _incomplete(facts, f"{frames} frames without a position")
    return tuple(replace(first, frame=number, layout="page") for number in range(frames))


def _seconds(facts: Facts) -> tuple[float | None, tuple[Remark, ...]]:
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
    facts: Facts,
    size: tuple[int, int],
    *,
    remarks: tuple[Remark, ...] = (),
    **known: Any,
) -> Plane:
    """What the header says about one plane."""
    assert facts.entry is not None  # noqa: S101
    facts.remarks = []
    row, column = _directions(facts)
    modality = facts.text("Modality")
    instant, timed = _instant(facts)
    place: dict[str, Any] = {
        "row": row,
        "column": column,
        "position": _vector(facts, "ImagePositionPatient", 3, "PlanePositionSequence"),
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


def _vector(facts: Facts, keyword: str, count: int, group: str) -> Float64[np.ndarray, " n"] | None:
    found = facts.numbers(keyword, count, group)
    if found is None:
        detector = facts.item(facts.dataset, "DetectorInformationSequence")
        found = Facts(facts.entry, detector).numbers(keyword, count) if detector is not None else None
    return None if found is None else np.array(found, np.float64)


def _directions(facts: Facts) -> tuple[Vector | None, Vector | None]:
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


def _spacing(facts: Facts) -> tuple[float, float] | None:
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
    inside = Facts(facts.entry, region)
    steps = [inside.number(f"PhysicalDelta{axis}") for axis in "XY"]
    units = [inside.number(f"PhysicalUnits{axis}Direction") for axis in "XY"]
    if units != [3, 3] or not all(steps):
        return None
    return abs(steps[0] or 0) * 10, abs(steps[1] or 0) * 10


def _instant(facts: Facts) -> tuple[tuple[float, ...], bool]:
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


def _traits(facts: Facts) -> tuple[tuple[str, str], ...]:
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
