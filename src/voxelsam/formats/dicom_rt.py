"""DICOM RT structure sets: told apart from images, and refused with what to do.

A structure set holds contours on slices of other files. Nothing here fills them: what lies inside of a contour is
decided by the program that drew it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

from voxelsam.errors import FormatError, OutputError
from voxelsam.formats._dicom_files import library
from voxelsam.formats._dicom_seg_frames import reading
from voxelsam.formats._dicom_sop import STRUCTURE_SET, objects_in, sop_class
from voxelsam.formats._files import HEAD
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "dicom_rt"
SUFFIXES: tuple[str, ...] = ()
ENDINGS: tuple[str, ...] = ()


def recognises(path: Path, head: bytes) -> bool:
    """Whether a file is an RT structure set, or a folder holds such files and nothing else."""
    if path.is_dir():
        return bool(objects_in(path, (STRUCTURE_SET,), HEAD))
    return sop_class(head) == STRUCTURE_SET


def frames(path: Path) -> int:
    """Refuses, as ``read_labels``.

    Raises:
        FormatError: SET-03, always.
    """
    _refuse(path)


def read(path: Path, *, frame: int | None = None) -> Volume:
    """Refuses, as ``read_labels``.

    Raises:
        FormatError: SET-03, always.
    """
    _refuse(path)


def read_numbers(path: Path) -> Volume:
    """Refuses, as ``read_labels``.

    Raises:
        FormatError: SET-03, always.
    """
    _refuse(path)


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """Refuses, and says how many of the images that the contours were drawn on are there.

    Raises:
        FormatError: SET-03, always.
    """
    _refuse(path)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Refuses: structure sets are not written.

    Raises:
        OutputError: always.
    """
    raise OutputError(
        f"{path}: RT structure sets are not written; write a DICOM segmentation (.dcm) or NIfTI (.nii.gz)"
    )


def write_volume(path: Path, volume: Volume) -> None:
    """Refuses: a structure set holds no image.

    Raises:
        OutputError: always.
    """
    raise OutputError(f"{path}: RT structure sets hold no images; write NIfTI (.nii.gz)")


def _refuse(path: Path) -> Never:
    file = objects_in(path, (STRUCTURE_SET,), HEAD)[0] if path.is_dir() else path
    pydicom = library("pydicom", f"{path}: reading DICOM")
    with reading(file, "RT structure set"):
        data = pydicom.dcmread(file)
        structures = len(data.get("StructureSetROISequence") or ())
        wanted = set(_images(data))
    there = len(wanted & _identifiers(pydicom, file.parent))
    images = (
        f"its contours refer to {len(wanted)} images, of which {there} lie beside it"
        if wanted
        else "it refers to no image"
    )
    raise FormatError(
        f"{path}: this is an RT structure set ({structures} structures); {images}, and contours are not read: convert "
        "it together with its images to a DICOM segmentation or NIfTI, with 3D Slicer or plastimatch for example",
        code="SET-03",
    )


def _images(data: Any) -> Iterator[str]:
    """Identifiers of the images of a structure set, from the list of the series and from the contours."""
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield from _referenced(series)
    for structure in data.get("ROIContourSequence") or ():
        for contour in structure.get("ContourSequence") or ():
            yield from _referenced(contour)


def _referenced(item: Any) -> Iterator[str]:
    for image in item.get("ContourImageSequence") or ():
        if identifier := image.get("ReferencedSOPInstanceUID"):
            yield str(identifier)


def _identifiers(pydicom: Any, folder: Path) -> set[str]:
    """Identifiers of the DICOM objects in a folder."""
    found = set()
    for path in folder.iterdir():
        if path.is_file():
            with contextlib.suppress(FormatError), reading(path):
                found.add(str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")))
    return found
