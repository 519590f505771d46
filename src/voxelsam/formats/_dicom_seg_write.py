"""A label map as a DICOM segmentation, by highdicom, from the headers of the image it lies on."""

import copy
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from voxelsam import checks
from voxelsam.errors import GeometryError, OutputError
from voxelsam.formats._dicom_files import library
from voxelsam.formats._files import store
from voxelsam.volumes._terms import Code
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source

DICOM = "dicom"
"""Name of the format plug-in that reads images."""

INSTEAD = "write NIfTI (.nii.gz) instead"

_SERIES = 1000
"""Added to the number of the image's series."""
_LARGEST_SERIES = 2**31 - 1 - _SERIES
_LONG = 64
"""Characters of a DICOM text such as a segment's label."""
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_BLANK = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What DICOM demands, but lets be empty."""
_UNICODE = "ISO_IR 192"
_VERSION = re.compile(r"v?\d[\w.+-]*")


def image_headers(path: Path, like: Source | None, label_map: LabelMap) -> Any:
    """The header of the image, with ``datasets`` and ``frames``.

    Raises:
        OutputError: there is no DICOM image, or it cannot have segmentations (DCM-08).
        GeometryError: GEO-01, the image has other voxels than the label map.
    """
    source = next((s for s in (like, label_map.source) if s is not None and s.format == DICOM), None)
    if source is None or not getattr(source.header, "datasets", ()):
        raise OutputError(
            f"{path}: a DICOM segmentation belongs to a DICOM image, but the labels are of "
            f"{like or label_map.source or 'no file'}; {INSTEAD}, or give the DICOM series of the image"
        )
    header = source.header
    first = header.datasets[0]
    if getattr(header, "resampled", False):
        raise OutputError(
            f"{path}: the slices of {source} were resampled onto an even grid, so the labels lie on none of them; "
            f"{INSTEAD}"
        )
    if not all(data.get("FrameOfReferenceUID") for data in header.datasets):
        raise OutputError(
            f"{path}: a DICOM segmentation needs the frame of reference of its image, but {source} has none; {INSTEAD}",
            code="DCM-08",
        )
    if missing := [name for name in _NEEDED if any(not data.get(name) for data in header.datasets)]:
        raise OutputError(f"{path}: the image {source} lacks what DICOM demands ({', '.join(missing)}); {INSTEAD}")
    shape = (int(first.Columns), int(first.Rows), len(header.frames or header.datasets))
    if shape != label_map.grid.shape:
        raise GeometryError(
            f"{path}: the label map has {label_map.grid.shape} voxels, but the image {source} has {shape}",
            code="GEO-01",
        )
    return header


def segmentation(path: Path, label_map: LabelMap, header: Any, kind: Literal["binary", "labelmap"]) -> Any:
    """The segmentation as a highdicom object.

    Raises:
        OutputError: highdicom refuses it, a name does not fit into DICOM, or voxels hold the ignore value.
        MissingExtra: highdicom is not installed.
    """
    labels = label_map.labels
    _check_table(path, label_map)
    highdicom = library("highdicom", f"{path}: writing a DICOM segmentation")
    numbers = {labels.values[name]: place for place, name in enumerate(labels.names, 1)}
    if kind == "labelmap":
        numbers = {value: value for value in numbers}
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        try:
            result = _made(highdicom, label_map, header, numbers, kind)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise OutputError(
                f"{path}: cannot be made from the headers of the image ({type(error).__name__}: {error}); {INSTEAD}"
            ) from error
    _tell(path, doubts)
    return result


def store_dataset(path: Path, beside: Path, data: Any) -> None:
    """Writes a data set to a new file.

    Raises:
        OutputError: a value of the image's header cannot be written.
    """
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")

        def write(stream: BinaryIO) -> None:
            data.save_as(stream, enforce_file_format=True)

        try:
            store(beside, write)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise OutputError(f"{path}: cannot be written ({type(error).__name__}); {INSTEAD}") from error
    _tell(path, doubts)


def _tell(path: Path, doubts: list[warnings.WarningMessage]) -> None:
    """Says that something of the image's header is not as DICOM wants it, but not what: it may name the patient.

    A person's name of one part is nothing to tell: anonymised images are full of them.
    """
    told = [doubt for doubt in doubts if "single component" not in str(doubt.message)]
    if told:
        checks.notice(
            "DCM-09",
            f"{path}: values taken over from the header of the image are not as DICOM wants them ({len(told)})",
            stacklevel=4,
        )


def _check_table(path: Path, label_map: LabelMap) -> None:
    labels = label_map.labels
    if labels.ignore is not None and (unknown := int((label_map.data == labels.ignore).sum())):
        raise OutputError(
            f"{path}: {unknown} voxels are marked as not labelled ({labels.ignore}), for which DICOM has no place; "
            f"{INSTEAD}"
        )
    if not labels.names:
        raise OutputError(f"{path}: a DICOM segmentation needs a structure, but the table has none")
    if wrong := [name for name in labels.names if not 0 < len(name.strip()) <= _LONG or "\\" in name]:
        raise OutputError(
            f"{path}: names in DICOM have 1 to {_LONG} characters and no backslash, but {wrong[0]!r} came; rename it"
        )


def _made(highdicom: Any, label_map: LabelMap, header: Any, numbers: dict[int, int], kind: str) -> Any:
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    sources = _sources(header)
    labels = label_map.labels
    result = highdicom.seg.Segmentation(
        **_placed(highdicom, sources, header, _frames(label_map, numbers)),
        source_images=sources,
        segmentation_type=kind.upper(),
        segment_descriptions=_descriptions(highdicom, labels, numbers, label_map.author),
        series_instance_uid=generate_uid(),
        series_number=_series_number(sources[0]),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="voxelsam",
        manufacturer_model_name="voxelsam",
        software_versions=version("voxelsam"),
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Segmentation by voxelsam",
        series_description="Segmentation",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(label_map.data.any()),
        specific_character_set=_UNICODE,
    )
    if header.frames:
        _refer_to_frames(result, sources[0], header.frames)
    return result


def _series_number(image: Any) -> int:
    try:
        number = int(image.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return _SERIES + (number if 0 <= number <= _LARGEST_SERIES else 0)


def _sources(header: Any) -> list[Any]:
    """Copies of the headers that highdicom accepts: nothing missing, one orientation."""
    sources: list[Any] = []
    for data in header.datasets:
        own = copy.deepcopy(data)
        own.decode()
        for name in _BLANK:
            if name not in own:
                setattr(own, name, "")
        if own.PatientSex not in ("M", "F", "O"):
            own.PatientSex = ""
        if sources and "ImageOrientationPatient" in own:
            own.ImageOrientationPatient = sources[0].ImageOrientationPatient
        sources.append(own)
    return sources


def _frames(label_map: LabelMap, numbers: dict[int, int]) -> np.ndarray[Any, Any]:
    """Segment numbers, ``k rows columns``."""
    table = np.zeros(65536, np.uint16)
    table[list(numbers)] = list(numbers.values())
    frames = table[label_map.data].transpose(2, 1, 0)
    return np.ascontiguousarray(frames, np.uint8 if max(numbers.values()) <= 255 else np.uint16)


def _descriptions(highdicom: Any, labels: Labels, numbers: dict[int, int], author: str) -> list[Any]:
    from pydicom.sr.codedict import codes

    name, release = _name_and_version(author)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=name, version=release, family=codes.DCM.ArtificialIntelligence
    )
    found = []
    for structure in labels.names:
        value = labels.values[structure]
        term = labels.code(structure)
        segment = highdicom.seg.SegmentDescription(
            segment_number=numbers[value],
            segment_label=structure,
            segmented_property_category=(
                codes.SCT.MorphologicallyAbnormalStructure if term.abnormal else codes.SCT.AnatomicalStructure
            ),
            segmented_property_type=highdicom.sr.CodedConcept(term.value, term.scheme, term.meaning),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*labels.colour(value)),
        )
        _add_side(highdicom, segment, term)
        found.append(segment)
    return found


def _add_side(highdicom: Any, segment: Any, term: Code) -> None:
    from pydicom.sr.codedict import codes

    if term.side:
        side = codes.SCT.Left if term.side == "left" else codes.SCT.Right
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [highdicom.sr.CodedConcept.from_code(side)]


def _name_and_version(author: str) -> tuple[str, str]:
    """``voxelsam 0.1.0 (liver)`` is the version ``0.1.0`` of ``voxelsam (liver)``."""
    words = author.replace("\\", "/").split()
    release = next((word for word in words[1:] if _VERSION.fullmatch(word)), None)
    name = " ".join(word for word in words if word is not release)
    return name[:_LONG].strip() or "not stated", (release or "not stated")[:_LONG]


def _placed(highdicom: Any, sources: list[Any], header: Any, frames: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The frames in the order of the image's; with positions of their own where the image has more frames."""
    if not header.frames:
        return {"pixel_array": frames}
    groups = sources[0].PerFrameFunctionalGroupsSequence
    _share(sources[0], groups[header.frames[0]])
    if sorted(header.frames) == list(range(len(groups))):
        return {"pixel_array": frames[np.argsort(header.frames)]}
    positions = [
        highdicom.PlanePositionSequence("PATIENT", groups[frame].PlanePositionSequence[0].ImagePositionPatient)
        for frame in header.frames
    ]
    return {"pixel_array": frames, "plane_positions": positions}


def _share(image: Any, group: Any) -> None:
    """Moves what is the same for all frames of a volume to where highdicom looks for it."""
    from pydicom.dataset import Dataset

    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [Dataset()]
    shared = image.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, group[name].value)


def _refer_to_frames(result: Any, image: Any, frames: tuple[int, ...]) -> None:
    """Names the image's frame behind each frame; by position alone, another time point could be meant."""
    groups = image.PerFrameFunctionalGroupsSequence
    places = np.array([_place(groups[frame]) for frame in frames])
    for group in result.PerFrameFunctionalGroupsSequence:
        nearest = int(np.linalg.norm(places - _place(group), axis=1).argmin())
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedFrameNumber = frames[nearest] + 1
        group.DerivationImageSequence[0].SourceImageSequence = [source]


def _place(group: Any) -> np.ndarray[Any, Any]:
    return np.array(group.PlanePositionSequence[0].ImagePositionPatient, np.float64)
