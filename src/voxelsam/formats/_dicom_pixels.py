"""Decoded pixels in real-world values: Hounsfield units, or whatever the scanner's slope and intercept give.

Slopes and intercepts may differ from slice to slice. Bits beyond those stored are ignored, padding becomes the
smallest real value, an inverted grey scale (MONOCHROME1) is turned, palettes and YBR become red, green and blue.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float64

from voxelsam.errors import FormatError
from voxelsam.formats._dicom_files import Entry, quiet, reason
from voxelsam.formats._dicom_series import Plane, Remark
from voxelsam.types import Pixels

PACKING = 1000
"""More voxels per byte than this are not believed, where they are many."""
SMALL = 1 << 28
"""Bytes of pixels that are never too many."""

_HT = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
_ROBUST = ("pydicom", "pylibjpeg", "pillow", "pyjpegls", "gdcm")
_START_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_RLE = "1.2.840.10008.1.2.5"
_ADOBE, _START_OF_SCAN = 0xEE, 0xDA
_TWELVE_BITS = ("1.2.840.10008.1.2.4.51",)
_DEFAULTS = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0}

Array = np.ndarray[Any, Any]
Noted = list[tuple[Remark, str]]
"""Remarks, each with the name of its file."""


@dataclass(frozen=True, eq=False)
class _Slice:
    """One decoded slice: stored numbers (rows columns, or rows columns 3), and how to read them."""

    stored: Array
    slope: float
    intercept: float
    padding: Array | None
    """Which pixels are none."""


def digest(plane: Plane) -> bytes:
    """Equal for planes with the same pixels and the same values.

    Raises:
        FormatError: as ``decode``.
    """
    noted: Noted = []
    (one,) = _slices(plane.entry, [plane], noted)
    said = f"{one.stored.shape} {one.stored.dtype} {one.slope} {one.intercept}".encode()
    return hashlib.sha256(said + one.stored.tobytes()).digest()


def decode(path: Path, planes: Sequence[Plane], fill: Float64[np.ndarray, " k"] | None) -> tuple[Pixels, Noted]:
    """The voxels of some planes.

    Args:
        path: For messages.
        planes: In the order of k; a film is one plane with all frames.
        fill: Fractional number of the plane for each k, if slices are to be resampled linearly.

    Returns:
        Channels i j k, int16 (uint8 for plain 8-bit pixels) where all values are whole and fit, else float32; and what
        should be noticed.

    Raises:
        FormatError: SET-03, pixels are missing, cut off or damaged; DCM-05, nothing installed decodes them; DCM-07,
            colours that are neither red, green and blue nor can be made so.
    """
    noted: Noted = []
    found: dict[int, _Slice] = {}
    homes: dict[Entry, list[int]] = {}
    for number, plane in enumerate(planes):
        homes.setdefault(plane.entry, []).append(number)
    for entry, numbers in homes.items():
        parts = _slices(entry, [planes[number] for number in numbers], noted)
        if len(planes) == 1:
            found = dict(enumerate(parts))
        else:
            found.update(zip(numbers, parts, strict=True))
    slices = [found[number] for number in sorted(found)]
    if len({(one.stored.shape, one.stored.ndim) for one in slices}) > 1:
        raise FormatError(f"{path}: slices of different sizes after decoding; separate them", code="DCM-03")
    volume = _joined(slices)
    return (volume if fill is None else _resampled(volume, fill)), noted


def _slices(entry: Entry, planes: Sequence[Plane], noted: Noted) -> list[_Slice]:
    """The slices of one file: those asked for, or all frames of a film."""
    dataset = entry.dataset(pixels=True)
    remarks: list[Remark] = []
    with quiet():
        try:
            _complete(entry, dataset, remarks)
            _check_size(entry, dataset)
            arrays = _tiled(entry, dataset) if planes[0].layout == "tiles" else _arrays(entry, dataset, planes)
            slopes = planes if len(planes) == len(arrays) else [planes[0]] * len(arrays)
            found = [_read(entry, dataset, array, plane, remarks) for array, plane in zip(arrays, slopes, strict=True)]
        except FormatError:
            raise
        except Exception as error:
            raise FormatError(
                f"{entry.name}: pixels are cut off or damaged ({reason(error)}); fetch or export the file again",
                code="SET-03",
            ) from None
    noted += [(remark, entry.name) for remark in dict.fromkeys(remarks)]
    return found


def _complete(entry: Entry, dataset: Any, remarks: list[Remark]) -> None:
    """Gives a data set what decoders need, where that is missing and can be said."""
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise FormatError(f"{entry.name}: a DICOM image without pixels; fetch or export it again", code="SET-03")
    missing = {keyword: value for keyword, value in _DEFAULTS.items() if _lacks(dataset, keyword)}
    allocated = dataset.get("BitsAllocated") if not _lacks(dataset, "BitsAllocated") else None
    if allocated is not None and _lacks(dataset, "BitsStored"):
        missing["BitsStored"] = allocated
    for keyword, value in missing.items():
        setattr(dataset, keyword, value)
        remarks.append(("DCM-09", f"{keyword} is missing, taken as {value}"))
    if "ICCProfile" in dataset:
        del dataset.ICCProfile


def _lacks(dataset: Any, keyword: str) -> bool:
    try:
        return dataset.get(keyword) in (None, "")
    except Exception:
        return True


def _check_size(entry: Entry, dataset: Any) -> None:
    """Refuses more pixels than a file of that size can hold."""
    try:
        frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        size = int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.SamplesPerPixel)
        size *= max(1, int(dataset.BitsAllocated) // 8)
        held = len(
            dataset.get("PixelData") or dataset.get("FloatPixelData") or dataset.get("DoubleFloatPixelData") or b""
        )
    except Exception as error:
        raise FormatError(
            f"{entry.name}: the header does not say how many pixels there are ({reason(error)}); export it again",
            code="SET-03",
        ) from None
    if size > max(SMALL, PACKING * held):
        raise FormatError(
            f"{entry.name}: the header promises {size} bytes of pixels, but the file holds {held}; fetch it again",
            code="SET-03",
        )


def _arrays(entry: Entry, dataset: Any, planes: Sequence[Plane]) -> list[Array]:
    """Stored numbers of each plane, or of each frame of a film."""
    if planes[0].layout == "film":
        return list(_decoded(entry, dataset, range(planes[0].count)))
    wanted = [plane.frame or 0 for plane in planes]
    order = sorted(set(wanted))
    found = dict(zip(order, _decoded(entry, dataset, order), strict=True))
    return [found[number] for number in wanted]


def _decoded(entry: Entry, dataset: Any, frames: Sequence[int]) -> Iterator[Array]:
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
        corrected: dict[str, Any] = {} if _coded(dataset) else {"correct_unused_bits": False}
        for array in iter_pixels(dataset, indices=list(frames), decoding_plugin=plugin, **corrected):
            yield np.array(array)
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


def _check_streams(entry: Entry, dataset: Any, frames: Sequence[int]) -> None:
    """Refuses JPEG streams of another size or depth than the header's: GDCM would write beyond its memory."""
    from pydicom.encaps import get_frame

    wanted = (int(dataset.BitsAllocated) // 8, int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel))
    count = int(dataset.get("NumberOfFrames") or 1)
    for frame in frames:
        stream = get_frame(dataset.PixelData, frame, number_of_frames=count)
        if (found := _stream_size(stream)) != wanted:
            raise FormatError(
                f"{entry.name}: the header says bytes, rows, columns and samples {wanted}, but the compressed "
                f"pixels of frame {frame} say {found or 'nothing'}; fetch or export the file again",
                code="SET-03",
            )


def _stream_size(stream: bytes) -> tuple[int, ...] | None:
    """Bytes per sample, rows, columns and components of a JPEG stream; None if its markers are broken."""
    place, size = 2, None
    while stream[:2] == b"\xff\xd8" and place + 10 <= len(stream) and stream[place] == 0xFF:
        marker, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN:
            return size
        if marker in _START_OF_FRAME:
            rows, columns = (int.from_bytes(stream[place + n : place + n + 2], "big") for n in (5, 7))
            size = (-(-stream[place + 4] // 8), rows, columns, stream[place + 9])
        if marker == _ADOBE and stream[place + 4 : place + 9] == b"Adobe" and stream[place + 15 : place + 16] > b"\2":
            return None
        place += 1 if marker == 0xFF else 2 + length
    return None


def _tiled(entry: Entry, dataset: Any) -> list[Array]:
    """The whole picture of a slide, put together from its tiles."""
    width, height = int(dataset.TotalPixelMatrixColumns), int(dataset.TotalPixelMatrixRows)
    frames, rows, columns = int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns)
    if width * height > SMALL:
        raise FormatError(
            f"{entry.name}: a slide of {width} x {height} pixels is too large to be read whole; export a lower "
            "resolution, or a region",
            code="DCM-04",
        )
    places = _places(dataset, width, columns)
    if len(places) != frames or len(set(places)) != frames:
        raise FormatError(
            f"{entry.name}: a slide with several focal planes or optical paths; export one of them", code="DCM-04"
        )
    whole: Array | None = None
    for (left, top), tile in zip(places, _decoded(entry, dataset, range(frames)), strict=True):
        if whole is None:
            whole = np.zeros((height, width, *tile.shape[2:]), tile.dtype)
        if not (0 <= left < width and 0 <= top < height):
            raise FormatError(f"{entry.name}: a tile lies outside of its slide", code="DCM-04")
        part = tile[: height - top, : width - left]
        whole[top : top + rows, left : left + columns] = part
    return [] if whole is None else [whole]


def _places(dataset: Any, width: int, columns: int) -> list[tuple[int, int]]:
    """Left column and top row of each tile, from 0."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups and "PlanePositionSlideSequence" in groups[0]:
        spots = [group.PlanePositionSlideSequence[0] for group in groups]
        return [
            (int(spot.ColumnPositionInTotalImagePixelMatrix) - 1, int(spot.RowPositionInTotalImagePixelMatrix) - 1)
            for spot in spots
        ]
    across = -(-width // columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    rows = int(dataset.Rows)
    return [(number % across * columns, number // across * rows) for number in range(frames)]


def _read(entry: Entry, dataset: Any, array: Array, plane: Plane, remarks: list[Remark]) -> _Slice:
    """What the stored numbers of a slice mean."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = np.asarray(apply_color_lut(array, dataset))[..., :3]
        array = (array >> 8).astype(np.uint8) if array.dtype.itemsize > 1 else array
    if array.ndim == 3:
        if array.shape[-1] != 3:
            raise FormatError(
                f"{entry.name}: {array.shape[-1]} samples per pixel ({kind}), but colours are red, green and blue; "
                "convert the file",
                code="DCM-07",
            )
        return _Slice(array, 1.0, 0.0, None)
    if array.dtype.kind != "f" and not _coded(dataset):
        array = _own_bits(dataset, array)
    padding = _padding(dataset, array, remarks)
    if kind == "MONOCHROME1" and array.dtype.kind != "f":
        remarks.append(("DCM-07", "MONOCHROME1 (small numbers are bright): turned, so that large ones are"))
        low, high = _range(dataset, array)
        array = (low + high - array.astype(np.int64)).astype(array.dtype)
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return _Slice(np.asarray(apply_modality_lut(array, dataset)), 1.0, 0.0, padding)
    return _Slice(array, *_scale(plane, remarks), padding)


def _scale(plane: Plane, remarks: list[Remark]) -> tuple[float, float]:
    slope, intercept = plane.slope, plane.intercept
    if plane.modality == "CT" and intercept is None:
        remarks.append(("DCM-06", "a CT without RescaleIntercept: stored numbers are taken as Hounsfield units"))
    if slope == 0:
        remarks.append(("DCM-06", "RescaleSlope is 0, taken as 1"))
    return slope or 1.0, intercept or 0.0


def _coded(dataset: Any) -> bool:
    """Whether pixels come out of a codec, which gives numbers rather than bits at their places."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_encapsulated) and str(syntax) != _RLE


def _own_bits(dataset: Any, array: Array) -> Array:
    """Stored numbers without the bits that are not theirs (overlays, rubbish), with their own sign."""
    allocated, stored = array.dtype.itemsize * 8, int(dataset.BitsStored)
    high = int(dataset.get("HighBit") or stored - 1)
    if not 0 < stored < allocated or not stored - 1 <= high < allocated:
        return array
    return np.asarray((array << (allocated - 1 - high)) >> (allocated - stored))


def _range(dataset: Any, array: Array) -> tuple[int, int]:
    """Smallest and largest number that can be stored."""
    bits = int(dataset.BitsStored)
    if not 0 < bits <= array.dtype.itemsize * 8:
        bits = array.dtype.itemsize * 8
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if array.dtype.kind == "i" else (0, (1 << bits) - 1)


def _padding(dataset: Any, array: Array, remarks: list[Remark]) -> Array | None:
    """Which pixels are padding, whatever sign the header gave the padding's number."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = None if _lacks(dataset, keyword) else dataset.get(keyword)
        if isinstance(value, bytes) and len(value) == 2:
            value = int.from_bytes(value, "little")
        if not isinstance(value, int | float):
            break
        ends.append(_as_stored(value, array.dtype))
    if not ends:
        return None
    inside = np.asarray((array >= min(ends)) & (array <= max(ends)))
    if not inside.any():
        return None
    remarks.append(("DCM-06", "pixels outside of the image (PixelPaddingValue) get the smallest real value"))
    return inside


def _as_stored(value: float, dtype: np.dtype[Any]) -> float:
    """A number in the sign of the pixels: 63536 means -2000 where pixels have signs."""
    if dtype.kind == "f":
        return float(value)
    bits = dtype.itemsize * 8
    limits = np.iinfo(dtype)
    return (
        int(value)
        if limits.min <= value <= limits.max
        else (int(value) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1 if dtype.kind == "i" else 0)
    )


def _joined(slices: Sequence[_Slice]) -> Pixels:
    """Slices as one array in real values: channels i j k."""
    first = slices[0]
    colours = "k j i c -> c i j k" if first.stored.ndim == 3 else "k j i -> 1 i j k"
    same = {(one.slope, one.intercept) for one in slices} == {(first.slope, first.intercept)}
    plain = np.result_type(*(one.stored.dtype for one in slices))
    whole = same and plain.kind in "iu" and first.slope.is_integer() and first.intercept.is_integer()
    if whole:
        ends = [int(end) for one in slices for end in (one.stored.min(), one.stored.max())]
        reals = [end * int(first.slope) + int(first.intercept) for end in (min(ends), max(ends))]
        whole = min(reals) >= -(1 << 15) and max(reals) < 1 << 15
    grey = whole and plain == np.uint8 and (first.slope, first.intercept) == (1, 0)
    kind: np.dtype[Any] = np.dtype(np.uint8 if grey else np.int16 if whole else np.float32)
    volume = np.empty((len(slices), *first.stored.shape), kind)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, one in enumerate(slices):
            plainly = (one.slope, one.intercept) == (1, 0)
            volume[number] = one.stored if plainly else one.stored.astype(np.float64) * one.slope + one.intercept
    _fill_padding(volume, slices)
    return np.asarray(rearrange(volume, colours))


def _fill_padding(volume: Array, slices: Sequence[_Slice]) -> None:
    """Padding becomes the smallest value of what is no padding, in place."""
    if all(one.padding is None for one in slices):
        return
    real = [
        values.min()
        for one, values in (
            (one, part if one.padding is None else part[~one.padding]) for one, part in zip(slices, volume, strict=True)
        )
        if values.size
    ]
    if not real:
        return
    for one, part in zip(slices, volume, strict=True):
        if one.padding is not None:
            part[one.padding] = min(real)


def _resampled(volume: Pixels, fill: Float64[np.ndarray, " k"]) -> Pixels:
    """Slices mixed linearly from their neighbours, float32."""
    below = np.minimum(fill.astype(np.int64), volume.shape[3] - 1)
    above = np.minimum(below + 1, volume.shape[3] - 1)
    part = (fill - below).astype(np.float32)
    lower, upper = volume[..., below].astype(np.float32), volume[..., above].astype(np.float32)
    return np.asarray(lower * (1 - part) + upper * part)
