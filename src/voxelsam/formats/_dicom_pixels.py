"""Decoded pixels in real-world values: Hounsfield units, or whatever the scanner's slope and intercept give.

Slopes and intercepts may differ from slice to slice. Bits beyond those stored are ignored, padding becomes the
smallest real value, an inverted grey scale (MONOCHROME1) is turned, palettes and YBR become red, green and blue.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float64

from voxelsam.errors import FormatError
from voxelsam.formats._dicom_codec import coded, decoded
from voxelsam.formats._dicom_facts import Remark
from voxelsam.formats._dicom_files import Entry, quiet, reason
from voxelsam.formats._dicom_plane import Plane
from voxelsam.types import Pixels

PACKING = 1000
"""More voxels per byte than this are not believed, where they are many."""
SMALL = 1 << 28
"""Bytes of pixels that are never too many."""

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


def digests(planes: Sequence[Plane]) -> list[bytes]:
    """What is equal for planes with the same pixels and the same values; a file of many is decoded once.

    Raises:
        FormatError: as ``decode``.
    """
    found: dict[Plane, bytes] = {}
    for entry, own in _by_entry(planes).items():
        for plane, one in zip(own, _slices(entry, own, []), strict=True):
            said = f"{one.stored.shape} {one.stored.dtype} {one.slope} {one.intercept}".encode()
            found[plane] = hashlib.sha256(said + one.stored.tobytes()).digest()
    return [found[plane] for plane in planes]


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
    found = {entry: iter(_slices(entry, own, noted)) for entry, own in _by_entry(planes).items()}
    slices = list(found[planes[0].entry]) if len(planes) == 1 else [next(found[plane.entry]) for plane in planes]
    if len({(one.stored.shape, one.stored.ndim) for one in slices}) > 1:
        raise FormatError(f"{path}: slices of different sizes after decoding; separate them", code="DCM-03")
    volume = _joined(slices)
    return (volume if fill is None else _resampled(volume, fill)), noted


def _by_entry(planes: Sequence[Plane]) -> dict[Entry, list[Plane]]:
    """The planes of each file, in their order."""
    homes: dict[Entry, list[Plane]] = {}
    for plane in planes:
        homes.setdefault(plane.entry, []).append(plane)
    return homes


def _slices(entry: Entry, planes: Sequence[Plane], noted: Noted) -> list[_Slice]:
    """The slices of one file: those asked for, or all frames of a film."""
    dataset = entry.dataset(pixels=True)
    remarks: list[Remark] = []
    with quiet():
        try:
            _complete(entry, dataset, remarks)
            _check_size(entry, dataset)
            _check_shown(entry, dataset, remarks)
            arrays = _tiled(entry, dataset) if planes[0].layout == "tiles" else _arrays(entry, dataset, planes)
            slopes = planes if len(planes) == len(arrays) else [planes[0]] * len(arrays)
            found = [_read(dataset, array, plane, remarks) for array, plane in zip(arrays, slopes, strict=True)]
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


def _check_shown(entry: Entry, dataset: Any, remarks: list[Remark]) -> None:
    """Refuses colours that are not red, green and blue, and tells of text in the picture."""
    samples = int(dataset.SamplesPerPixel)
    if samples not in (1, 3):
        raise FormatError(
            f"{entry.name}: {samples} samples per pixel ({dataset.PhotometricInterpretation}), but colours are red, "
            "green and blue; convert the file",
            code="DCM-07",
        )
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        remarks.append(("DCM-07", "text is burnt into the pixels (BurnedInAnnotation) and may name the patient"))


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
        return list(decoded(entry, dataset, range(planes[0].count)))
    wanted = [plane.frame or 0 for plane in planes]
    order = sorted(set(wanted))
    found = dict(zip(order, decoded(entry, dataset, order), strict=True))
    return [found[number] for number in wanted]


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
    for (left, top), tile in zip(places, decoded(entry, dataset, range(frames)), strict=True):
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


def _read(dataset: Any, array: Array, plane: Plane, remarks: list[Remark]) -> _Slice:
    """What the stored numbers of a slice mean."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        array = np.asarray(apply_color_lut(array, dataset))[..., :3]
        array = (array >> 8).astype(np.uint8) if array.dtype.itemsize > 1 else array
    if array.ndim == 3:
        return _Slice(array, 1.0, 0.0, None)
    if array.dtype.kind != "f" and not coded(dataset):
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
    low, high = min(ends), max(ends)
    inside = np.asarray(array == low if low == high else (array >= low) & (array <= high))
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
            if plainly or not whole:
                volume[number] = one.stored if plainly else one.stored.astype(np.float64) * one.slope + one.intercept
                continue
            volume[number] = one.stored  # what overflows here comes back: the results are known to fit
            volume[number] *= np.array(int(one.slope)).astype(kind)
            volume[number] += np.array(int(one.intercept)).astype(kind)
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
