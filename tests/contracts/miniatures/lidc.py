"""Three patients with small scans; the XML of the last lies in a folder of its own, and a patient has a radiograph."""

from pathlib import Path

import numpy as np

PREFIX = "1.2.826.0.1.3680043.8.498"
NAMESPACE = "http://www.nih.gov"
SIZE = (20, 24)
"""Columns and rows."""
SLICES = 4

Outline = tuple[tuple[int, int], ...]


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Outline:
    """The pixels of its edge, one after the other."""
    top = [(x, y0) for x in range(x0, x1)]
    right = [(x1, y) for y in range(y0, y1)]
    bottom = [(x, y1) for x in range(x1, x0, -1)]
    left = [(x0, y) for y in range(y1, y0, -1)]
    return (*top, *right, *bottom, *left, (x0, y0))


FIRST, SECOND = rectangle(4, 5, 12, 13), rectangle(6, 7, 14, 15)


def make(root: Path) -> None:
    for number in (1, 2, 3):
        series = root / f"LIDC-IDRI-{number:04}" / "01-01-2000-CT" / f"{number}.000000"
        write_series(series, number)
        place = series if number < 3 else root / "tcia-lidc-xml" / "157"
        place.mkdir(parents=True, exist_ok=True)
        readers = [{1: [FIRST]}, {1: [SECOND]}, {}, {2: [SECOND]}]
        (place / "069.xml").write_text(document(number, readers))
    radiograph = root / "LIDC-IDRI-0001" / "01-01-2000-CXR" / "1"
    write_series(radiograph, 9, modality="DX", slices=1)


def uid(number: int, k: int | None = None) -> str:
    return f"{PREFIX}.{number}" if k is None else f"{PREFIX}.{number}.{k}"


def height(k: int) -> float:
    return -120.0 + 2.5 * k


def document(number: int, readers: list[dict[int, list[Outline]]], inclusion: str = "TRUE") -> str:
    """The XML of a scan: for every reader the outlines on each slice, counted upwards."""
    sessions = "".join(f"<readingSession>{''.join(map(nodule, reader.items()))}</readingSession>" for reader in readers)
    for k in range(SLICES):
        sessions = sessions.replace(f"@uid{k}@", uid(number, k)).replace(f"@z{k}@", str(height(k)))
    sessions = sessions.replace("@inclusion@", inclusion)
    header = f"<ResponseHeader><SeriesInstanceUid>{uid(number)}</SeriesInstanceUid></ResponseHeader>"
    return f'<?xml version="1.0"?><LidcReadMessage xmlns="{NAMESPACE}">{header}{sessions}</LidcReadMessage>'


def nodule(drawn: tuple[int, list[Outline]]) -> str:
    k, outlines = drawn
    return (
        f"<unblindedReadNodule><noduleID>1</noduleID>{''.join(roi(k, one) for one in outlines)}</unblindedReadNodule>"
    )


def roi(k: int, outline: Outline) -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in outline)
    place = f"<imageZposition>@z{k}@</imageZposition><imageSOP_UID>@uid{k}@</imageSOP_UID>"
    return f"<roi>{place}<inclusion>@inclusion@</inclusion>{edges}</roi>"


def write_series(folder: Path, number: int, modality: str = "CT", slices: int = SLICES) -> None:
    """A series whose files are not in the order of its slices."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    random = np.random.default_rng(number)
    for k in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = uid(number, k)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"1-{slices - k:03}.dcm"
        file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, uid(number, k)
        file.Modality, file.PatientID, file.PatientName = modality, f"LIDC-IDRI-{number:04}", ""
        file.StudyInstanceUID, file.SeriesInstanceUID = f"{PREFIX}.7.{number}", uid(number)
        file.FrameOfReferenceUID = f"{PREFIX}.8.{number}"
        file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20000101", "", "", ""
        file.SeriesNumber, file.InstanceNumber = 1, slices - k
        file.Rows, file.Columns = SIZE[1], SIZE[0]
        file.PixelSpacing, file.SliceThickness = [0.7, 0.7], 2.5
        file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-7.0, -8.0, height(k)]
        file.RescaleSlope, file.RescaleIntercept, file.RescaleType = 1, -1024, "HU"
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
        file.PixelData = random.integers(0, 2000, (SIZE[1], SIZE[0]), np.int16).tobytes()
        file.save_as(path, enforce_file_format=True)
