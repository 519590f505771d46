"""DICOM series with slices that are there more than once."""

import hashlib
import shutil
from pathlib import Path

from voxelsam.errors import FormatError, MissingExtra


def without_copies(series: Path, folder: Path) -> int:
    """Copies the files of a series, but of those with the same place and the same pixels only the first.

    Args:
        series: folder of the series.
        folder: an empty one.

    Returns:
        Number of files left out.

    Raises:
        FormatError: SET-03, it is no folder (but an archive, say).
        MissingExtra: pydicom is not installed.
    """
    if not series.is_dir():
        raise FormatError(f"{series}: copies of slices are removed from folders only; unpack it first", code="SET-03")
    seen: set[str] = set()
    dropped = 0
    for number, file in enumerate(sorted(path for path in series.rglob("*") if path.is_file())):
        content = _content(file)
        if content in seen:
            dropped += 1
            continue
        if content:
            seen.add(content)
        shutil.copyfile(file, folder / f"{number:06}_{file.name}")
    return dropped


def _content(file: Path) -> str:
    """What is equal for copies of one slice; empty for other files."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise MissingExtra("reading DICOM needs the extra 'dicom': pip install 'voxelsam[dicom]'") from None
    try:
        data = pydicom.dcmread(file)
    except (InvalidDicomError, OSError):
        return ""
    if "PixelData" not in data or "ImagePositionPatient" not in data:
        return ""
    keys = ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept")
    place = repr([str(data.get(key, "")) for key in keys])
    return hashlib.sha256(place.encode() + data.PixelData).hexdigest()
