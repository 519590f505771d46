"""Frames as they are stored, out of whatever packs them.

Of several installed decoders the most robust one is taken. GDCM, the only one for lossless JPEG, ends the whole process
on some damaged streams; so it gets only streams that are whole and of the size that the header says.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from voxelsam.errors import FormatError
from voxelsam.formats._dicom_files import Entry, reason

_HT = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
_ROBUST = ("pydicom", "pylibjpeg", "pillow", "pyjpegls", "gdcm")
_TWELVE_BITS = ("1.2.840.10008.1.2.4.51",)
_RLE = "1.2.840.10008.1.2.5"
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
_ADOBE, _TABLES, _START_OF_SCAN, _END = 0xEE, 0xC4, 0xDA, b"\xff\xd9"

Array = np.ndarray[Any, Any]


def decoded(entry: Entry, dataset: Any, frames: Sequence[int]) -> Iterator[Array]:
    """Frames in ascending order, colours as red, green and blue."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import iter_pixels

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise FormatError(
            f"{entry.name}: pixels are stored as {syntax.name} ({syntax}), which no known package decodes; export the "
            "file uncompressed",
            code="DCM-05",
        ) from None
    if syntax.is_encapsulated and not decoder.is_available:
        package = "pylibjpeg pylibjpeg-openjpeg" if syntax in _HT else "python-gdcm"
        raise FormatError(
            f"{entry.name}: pixels are stored as {syntax.name} ({syntax}), and no package that decodes it is "
            f"installed: pip install {package}",
            code="DCM-05",
        )
    plugin = _plugin(decoder, dataset) if syntax.is_encapsulated else ""
    if plugin == "gdcm":
        _check_streams(entry, dataset, frames)
    try:
        corrected: dict[str, Any] = {} if coded(dataset) else {"correct_unused_bits": False}
        for array in iter_pixels(dataset, indices=list(frames), decoding_plugin=plugin, view_only=True, **corrected):
            yield np.asarray(array)
    except RuntimeError as error:
        if syntax not in _TWELVE_BITS or int(dataset.BitsStored) <= 8:
            raise
        raise FormatError(
            f"{entry.name}: pixels are stored as {syntax.name} ({syntax}) with {dataset.BitsStored} bits, and nothing "
            "that decodes it is installed: pip install pylibjpeg pylibjpeg-libjpeg (mind its licence, GPL-3.0), or "
            f"export the file uncompressed ({reason(error)})",
            code="DCM-05",
        ) from None


def _plugin(decoder: Any, dataset: Any) -> str:
    """The most robust of the decoders that are installed; GDCM ends the whole process on some damaged streams."""
    deep = int(dataset.SamplesPerPixel) > 1 and int(dataset.BitsStored) > 8
    found = [name for name in _ROBUST if name in decoder.available_plugins and not (deep and name == "pillow")]
    return found[0] if found else ""


def coded(dataset: Any) -> bool:
    """Whether pixels come out of a codec, which gives numbers rather than bits at their places."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_encapsulated) and str(syntax) != _RLE


def _check_streams(entry: Entry, dataset: Any, frames: Sequence[int]) -> None:
    """Refuses JPEG streams that are cut off, or of another size or depth than the header's."""
    from pydicom.encaps import get_frame

    wanted = (int(dataset.BitsAllocated) // 8, int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel))
    count = int(dataset.get("NumberOfFrames") or 1)
    for frame in frames:
        stream = get_frame(dataset.PixelData, frame, number_of_frames=count)
        if (found := stream_size(stream)) != wanted:
            raise FormatError(
                f"{entry.name}: the header says bytes, rows, columns and samples {wanted}, but the compressed "
                f"pixels of frame {frame} say {found or 'nothing'}; fetch or export the file again",
                code="SET-03",
            )


def stream_size(stream: bytes) -> tuple[int, int, int, int] | None:
    """Bytes per sample, rows, columns and components of a JPEG stream; None if it is cut off or its markers are broken.

    Up to the coded pixels all must be as the standard prescribes: lengths of segments, Huffman tables, and of lossless
    streams the sampling and the predictor.
    """
    place, size, lossless = 2, None, False
    while stream[:2] == b"\xff\xd8" and place + 10 <= len(stream) and stream[place] == 0xFF:
        marker, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        segment = stream[place + 4 : place + 2 + length]
        if marker == _START_OF_SCAN:
            return size if _is_scan(segment, length, lossless) and stream.rfind(_END) > place else None
        if marker in _START_OF_FRAME:
            size, lossless = None if size else _frame_size(marker, segment), marker in _LOSSLESS
            if size is None:
                return None
        if marker == _TABLES and not _are_tables(segment):
            return None
        if marker == _ADOBE and segment[:5] == b"Adobe" and segment[11:12] > b"\2":
            return None
        place += 1 if marker == 0xFF else 2 + length
    return None


def _frame_size(marker: int, segment: bytes) -> tuple[int, int, int, int] | None:
    """As ``stream_size``, from the segment that starts a frame; None if it is broken."""
    if len(segment) < 6 or len(segment) != 6 + 3 * segment[5]:
        return None
    if marker in _LOSSLESS and set(segment[7::3]) != {0x11}:
        return None
    rows, columns = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    return -(-segment[0] // 8), rows, columns, segment[5]


def _is_scan(segment: bytes, length: int, lossless: bool) -> bool:
    """Whether a segment can start the coded pixels; of lossless ones, three numbers say how they are predicted."""
    if len(segment) != length - 2 or not segment or len(segment) != 4 + 2 * segment[0]:
        return False
    predictor, end, shift = segment[-3:]
    return not lossless or (1 <= predictor <= 7 and end == 0 and shift < 16)


def _are_tables(segment: bytes) -> bool:
    """Whether a segment holds whole Huffman tables: how many codes have each length, then what they stand for."""
    while segment:
        counts = segment[1:17]
        taken = sum(count << 16 - bits for bits, count in enumerate(counts, 1))
        if len(segment) < 17 + sum(counts) or not 0 < taken <= 1 << 16:
            return False
        segment = segment[17 + sum(counts) :]
    return True
