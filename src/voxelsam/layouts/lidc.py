"""LIDC-IDRI: nodules of the lung in CT; ``LIDC-IDRI-0001/STUDY/SERIES`` with DICOM files and the readers' XML.

Up to four radiologists outlined the nodules of 3 mm and more of each scan. A voxel is nodule where two or more of them
agree. Marks of smaller nodules and of other findings have no outline and do not count. The organisers' outlines run on
the first pixels outside of a nodule, so they do not belong to it; an outline marked as no inclusion is a hole.

The XML lies in the folder of its series, or anywhere in a folder beside those of the patients; then it is found by the
series that it names. Series other than CT are passed over. A patient's scans are one group.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from voxelsam import formats
from voxelsam.errors import GeometryError, InputError, LabelError, MissingExtra
from voxelsam.layouts import _xml
from voxelsam.layouts._dataset import Case, Dataset, Problems
from voxelsam.volumes import LabelMap, Labels, Source

EXPECTS = "LIDC-IDRI-0001/STUDY/SERIES/*.dcm, and the readers' XML in the same folder or in one of its own"
AGREE = 2
"""Readers who must have outlined a voxel; half of the four that every scan had."""

NEAR = 0.05
"""Slices are at the height that an outline names if they differ by less, mm."""

_LABELS = Labels({"background": 0, "nodule": 1})
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_SERIES = re.compile(rb"<(?:\w+:)?SeriesInstanceUid>\s*([\d.]+)\s*<", re.IGNORECASE)
_HEAD = 1 << 16


def recognises(root: Path) -> bool:
    """Whether there is a folder with the name of a patient of the collection."""
    return root.is_dir() and any(_PATIENT.fullmatch(path.name) for path in root.iterdir())


def read(root: Path) -> Dataset:
    """The data set in a folder; of every series one header is read.

    Raises:
        InputError: all that is wrong, at once: SET-01 scans without an XML or with several, no scans; SET-03 files that
            are no DICOM.
        MissingExtra: pydicom is not installed.
    """
    problems = Problems(root)
    elsewhere = _elsewhere(root)
    cases: list[Case] = []
    for patient in sorted(path for path in root.iterdir() if _PATIENT.fullmatch(path.name)):
        scans = list(_scans(patient, elsewhere, problems))
        names = [patient.name] if len(scans) == 1 else [f"{patient.name}_{number + 1}" for number in range(len(scans))]
        cases += [
            Case(name, (series,), xml, patient.name, reader="lidc")
            for name, (series, xml) in zip(names, scans, strict=True)
        ]
    if not cases and not problems.found:
        problems.add("SET-01", f"no cases; expected {EXPECTS}")
    problems.check_ids(cases)
    problems.stop()
    return Dataset(root, "lidc", "LIDC-IDRI", _LABELS, ("CT",), "CT", tuple(cases), ())


def read_label(case: Case, labels: Labels) -> LabelMap:
    """Voxels that at least two readers outlined as nodule, on those of the scan.

    Args:
        case: one of this layout's.
        labels: its table.

    Raises:
        FormatError, GeometryError, InputError: as ``formats.read`` of the series.
        GeometryError: DCM-01, the series was accepted and resampled, so that its slices are gone.
        InputError: SET-03, the XML cannot be read.
        LabelError: LAB-01, an outline is no list of pixels; SET-01, an outline on a slice that the series has not.
    """
    if case.label is None:
        raise InputError(f"case {case.id} has no label", code="SET-01")
    volume = formats.read(case.images[0])
    header = volume.source.header if volume.source else None
    headers = getattr(header, "datasets", ())
    if getattr(header, "resampled", False) or len(headers) != volume.grid.shape[2]:
        raise GeometryError(
            f"{case.images[0]}: its slices were resampled because their spacing is uneven, but an outline belongs to "
            "one slice; leave the scan out, or complete it",
            code="DCM-01",
        )
    places = {str(one.SOPInstanceUID): k for k, one in enumerate(headers)}
    heights = [float(one.ImagePositionPatient[2]) for one in headers]
    voted = votes(_xml.parse(case.label), volume.grid.shape, places, heights, str(case.label))
    data = (voted >= AGREE).astype(np.uint8) * np.uint8(labels.values["nodule"])
    return LabelMap(data, volume.grid, labels, Source((case.label,), "lidc"))


def votes(
    root: Element, shape: tuple[int, int, int], places: Mapping[str, int], heights: list[float], where: str
) -> UInt8[np.ndarray, "i j k"]:
    """How many readers outlined each voxel.

    Args:
        root: of the XML.
        shape: columns, rows and slices of the scan.
        places: slice of each SOP instance UID.
        heights: z of each slice, mm towards the head, for outlines whose UID is not in the series.
        where: the file, for messages.

    Raises:
        LabelError: LAB-01, an outline is no list of pixels; SET-01, an outline on a slice that the series has not.
    """
    count = np.zeros(shape, np.uint8)
    for reader in root.iter("readingSession"):
        inside, holes = np.zeros(shape, bool), np.zeros(shape, bool)
        for outline in reader.iterfind("unblindedReadNodule/roi"):
            points = _points(outline, where)
            if len(points) < 3:
                continue
            target = holes if _text(outline, "inclusion").upper() == "FALSE" else inside
            target[..., _slice(outline, places, heights, where)] |= _within(points, shape[:2])
        count += inside & ~holes
    return count


def _within(points: list[tuple[int, int]], size: tuple[int, int]) -> Bool[np.ndarray, "i j"]:
    """Pixels inside of an outline, without those of the outline."""
    canvas = Image.new("L", size)
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=0)
    return np.asarray(canvas, bool).T


def _points(outline: Element, where: str) -> list[tuple[int, int]]:
    try:
        return [(int(_text(edge, "xCoord")), int(_text(edge, "yCoord"))) for edge in outline.iterfind("edgeMap")]
    except ValueError:
        raise LabelError(
            f"{where}: an outline on the image {_text(outline, 'imageSOP_UID')} has points whose xCoord and yCoord are "
            "no whole numbers",
            code="LAB-01",
        ) from None


def _slice(outline: Element, places: Mapping[str, int], heights: list[float], where: str) -> int:
    uid, height = _text(outline, "imageSOP_UID"), _text(outline, "imageZposition")
    if uid in places:
        return places[uid]
    try:
        apart = [abs(z - float(height)) for z in heights]
    except ValueError:
        apart = []
    if not apart or min(apart) >= NEAR:
        raise LabelError(
            f"{where}: an outline lies on the image {uid} at z = {height or 'nowhere'}, but the series has no such "
            "slice; is it the XML of another series, or is a file missing?",
            code="SET-01",
        )
    return int(np.argmin(apart))


def _scans(patient: Path, elsewhere: Mapping[str, list[Path]], problems: Problems) -> Iterator[tuple[Path, Path]]:
    """Folder and XML of each CT series of a patient."""
    for series in sorted({path.parent for path in patient.rglob("*.dcm")}):
        try:
            header = _header(min(series.glob("*.dcm")))
        except InputError as error:
            problems.add(error.code, str(error))
            continue
        if header.get("Modality") != "CT":
            continue
        found = sorted(series.glob("*.xml")) or elsewhere.get(str(header.get("SeriesInstanceUID")), [])
        if len(found) == 1:
            yield series, found[0]
        else:
            came = ", ".join(path.name for path in found) or "none"
            problems.add("SET-01", f"{patient.name}: {series} needs one XML of the readers' outlines, but has {came}")


def _header(path: Path) -> Any:
    """The few attributes that sort series, as a pydicom Dataset."""
    try:
        import pydicom
    except ImportError:
        raise MissingExtra("LIDC-IDRI needs the extra 'dicom': pip install 'voxelsam[dicom]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, specific_tags=["Modality", "SeriesInstanceUID"], stop_before_pixels=True)
    except (OSError, ValueError, AttributeError, NotImplementedError, pydicom.errors.InvalidDicomError) as error:
        raise InputError(f"{path}: not readable as DICOM ({error})", code="SET-03") from None


def _elsewhere(root: Path) -> dict[str, list[Path]]:
    """XML files in folders that are no patient's, by the series that each names near its beginning."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not _PATIENT.fullmatch(path.name)):
        for path in sorted(folder.rglob("*.xml")):
            with path.open("rb") as stream:
                match = _SERIES.search(stream.read(_HEAD))
            if match:
                found.setdefault(match[1].decode(), []).append(path)
    return found


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
