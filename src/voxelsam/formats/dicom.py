"""DICOM images: a file, a folder or a zip archive with one or more series.

Axes: i counts columns, j rows, k slices in ascending position along the slices' normal; positions come from
ImagePositionPatient and ImageOrientationPatient only, turned from LPS to RAS. A tilted gantry gives a sheared grid,
exactly as the positions say. Frames of a film without positions lie along k, in seconds. Values are those after slope
and intercept: Hounsfield units in CT. Nothing is written here: masks of DICOM images go to DICOM SEG.
"""

from pathlib import Path

from voxelsam.errors import FormatError, InputError, LabelError, OutputError
from voxelsam.formats import _dicom_files as files
from voxelsam.formats import _dicom_pixels as pixels
from voxelsam.formats import _dicom_verdict as verdict
from voxelsam.formats._dicom_plane import Plane, not_image, planes_of
from voxelsam.formats._dicom_series import DicomHeader, Part, Series, parts_of
from voxelsam.formats._dicom_sop import LABELS, sop_class
from voxelsam.formats._files import ZIP
from voxelsam.formats._values import check_finite, integers, named, warn_if_constant
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import Kind, LabelMap, Source, Volume

__all__ = [
    "ENDINGS",
    "MASKS",
    "NAME",
    "SUFFIXES",
    "DicomHeader",
    "Series",
    "frames",
    "list_series",
    "read",
    "read_labels",
    "read_numbers",
    "recognises",
    "write_labels",
    "write_volume",
]

NAME = "dicom"
SUFFIXES: tuple[str, ...] = ()
ENDINGS = files.ENDINGS
MASKS = dict.fromkeys(("", *ENDINGS), ".dcm")
"""Masks of DICOM images are DICOM SEG."""

_KINDS: dict[str, Kind] = {"CT": "CT", "MR": "MR", "US": "US", "IVUS": "US"}
_SHOWN = 30
"""Series that an error lists."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether this is a DICOM file that is no segmentation or structure set, or a folder or zip archive that holds one.

    Args:
        path: The file or folder.
        head: First bytes of a file; of a folder, none.
    """
    if path.is_dir() or head.startswith(ZIP):
        return files.holds_images(path)
    found = sop_class(head)
    return found is not None and found not in LABELS


def list_series(path: Path) -> tuple[Series, ...]:
    """What can be chosen: the series of a file, folder or archive, and the parts of those that are no single volume.

    Raises:
        FormatError: SET-03, a file cannot be read; DCM-03, there is no image among the files.
        MissingExtra: pydicom is not installed.
    """
    with files.entries(path) as found:
        return tuple(part.series for part in _parts(path, found))


def frames(path: Path, *, series: str | None = None) -> int:
    """Number of time points (or single pictures) at the same positions; 1 for a volume, and for a film.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
    """
    with files.entries(path) as found:
        return len(_instants(path, _chosen(path, _parts(path, found), series)))


def read(path: Path, *, frame: int | None = None, series: str | None = None) -> Volume:
    """An image.

    Args:
        path: A file, a folder (all files at any depth) or a zip archive.
        frame: Which time point, from 0; needed only if there are several.
        series: Which series or part: its key as ``list_series`` gives it, a unique ending of it, or its number.

    Raises:
        FormatError: SET-03, a file is cut off or damaged; DCM-03, this is no image but another DICOM object; DCM-04,
            multi-frame without functional groups; DCM-05, a compression that nothing installed decodes; DCM-07,
            colours of another kind than red, green and blue.
        GeometryError: DCM-01, slices are missing, there twice or uneven; DCM-03, images at one position only; DCM-08,
            no positions; DCM-09, an orientation that is none.
        InputError: DCM-03, several series and none chosen; VAL-01, voxels that are not finite; VAL-05, several time
            points and none chosen.
        MissingExtra: pydicom is not installed.
    """
    with files.entries(path, tell=True) as found:
        part = _chosen(path, _parts(path, found), series)
        planes = _at(path, _instants(path, part), frame)
        stack = verdict.judge(path, planes)
        data, noted = pixels.decode(path, stack.planes, stack.fill)
    verdict.tell(path, stack.planes, noted)
    data = check_finite(path, data)
    warn_if_constant(path, data)
    kind = _kind(stack.planes[0], data.shape[0], str(data.dtype))
    return Volume(data, stack.grid, kind, Source((path,), NAME, _header(stack)))


def read_numbers(path: Path) -> Volume:
    """Whole numbers that stand for something, such as a mask stored as an image series, as an image of one channel.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are not within 0.001 of an integer, or colours; LAB-02, values beyond 32 bits.
    """
    image = read(path)
    if image.channels != 1:
        raise LabelError(f"{path}: a label map holds one number per voxel, but this holds colours", code="LAB-01")
    return Volume(integers(path, image.data), image.grid, "UNKNOWN", image.source)


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map that is stored as an image series, as uint8 or uint16.

    Args:
        path: As in ``read``.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: as ``read_numbers``; LAB-02, values outside the table.
    """
    return named(path, read_numbers(path), labels)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Not possible: masks of DICOM images are DICOM SEG objects.

    Raises:
        OutputError: always.
    """
    raise OutputError(f"{path}: masks are not written as DICOM images; write a DICOM SEG, or NIfTI")


def write_volume(path: Path, volume: Volume) -> None:
    """Not possible: DICOM images are only read.

    Raises:
        OutputError: always.
    """
    raise OutputError(f"{path}: images are not written as DICOM; write NIfTI")


def _parts(path: Path, found: tuple[files.Entry, ...]) -> tuple[Part, ...]:
    """What the files hold."""
    planes = [plane for entry in found for plane in planes_of(entry)]
    if planes:
        return parts_of(planes)
    if not found:
        raise FormatError(f"{path}: no DICOM file in it; check the path", code="SET-03")
    others = sorted({not_image(entry.dataset(pixels=False)) for entry in found})
    raise FormatError(
        f"{path}: expected a DICOM image, but this is {', '.join(others)}; give the series that it belongs to",
        code="DCM-03",
    )


def _chosen(path: Path, parts: tuple[Part, ...], series: str | None) -> Part:
    if series is None and len(parts) == 1:
        return parts[0]
    if series is not None:
        fitting = [part for part in parts if part.series.key == series]
        fitting = fitting or [part for part in parts if str(part.series.number) == series]
        fitting = fitting or [part for part in parts if series and part.series.key.endswith(series)]
        fitting = fitting or [part for part in parts if series and part.series.uid.endswith(series)]
        if len(fitting) == 1:
            return fitting[0]
        parts = tuple(fitting) or parts
    asked = "" if series is None else f", and {series} is {'none' if len(parts) == 0 else 'no single one'} of them"
    listed = "\n".join(f"  {part.series}" for part in parts[:_SHOWN])
    more = f"\n  and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    raise InputError(
        f"{path}: expected one series, but there are {len(parts)}{asked}; choose one by its number, its key, or an "
        f"ending of its key (series='1'):\n{listed}{more}",
        code="DCM-03",
    )


def _instants(path: Path, part: Part) -> verdict.Instants:
    if part.planes[0].trouble is not None:
        raise part.planes[0].trouble
    return verdict.time_points(path, part.planes, pixels.digests)


def _at(path: Path, instants: verdict.Instants, frame: int | None) -> tuple[Plane, ...]:
    if frame is None and len(instants) > 1:
        raise InputError(
            f"{path}: expected one volume, but there are {len(instants)} (time points at the same positions, or "
            f"pictures); choose one: frame=0 to frame={len(instants) - 1}",
            code="VAL-05",
        )
    if frame is not None and not 0 <= frame < len(instants):
        raise InputError(f"{path}: frame {frame} was asked for, but there are {len(instants)}, from 0", code="VAL-05")
    return instants[frame or 0]


def _kind(plane: Plane, channels: int, dtype: str) -> Kind:
    known = _KINDS.get(plane.modality)
    if known is not None or not plane.modality or channels != 3 or dtype != "uint8":
        return known or "UNKNOWN"
    return "VIDEO" if plane.layout == "film" else "PICTURE"


def _header(stack: verdict.Stack) -> DicomHeader:
    first = stack.planes[0]
    if first.count == 1 or first.layout == "tiles":
        datasets = tuple(plane.dataset for plane in stack.planes)
        return DicomHeader(datasets, resampled=stack.fill is not None)
    numbers = range(first.count) if first.layout == "film" else [plane.frame or 0 for plane in stack.planes]
    return DicomHeader((first.dataset,), tuple(numbers), stack.fill is not None)
