"""NIfTI-1 and NIfTI-2, one file or a pair, gzip or not (told by content, never by name).

Arrays keep the file's axis order i j k. Scaling (``scl_slope``, ``scl_inter``) is applied when reading images and
label maps; label maps are written as integers with slope 1 and intercept 0, read back and compared before they get
their name.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from nibabel.spatialimages import HeaderDataError

from voxelsam.errors import FormatError, InputError, LabelError, OutputError
from voxelsam.formats import _nifti_header as geometry
from voxelsam.formats._files import GZIP, fresh_file, head_of, store
from voxelsam.formats._values import check_finite, chosen, compact, integers, named, warn_if_constant
from voxelsam.space.grid import Grid
from voxelsam.volumes.labels import Labels
from voxelsam.volumes.volume import LabelMap, Source, Volume

NAME = "nifti"
SUFFIXES = (".nii.gz", ".nii")
ENDINGS = SUFFIXES

_DEFLATE_LIMIT = 1100
"""gzip never packs more bytes than this into one."""

_CHUNK = 1 << 20
"""Bytes read at a time."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first bytes are those of a NIfTI (or Analyze) header, packed or not."""
    return geometry.header_length(head) is not None


def frames(path: Path) -> int:
    """Number of entries of the fourth axis; 1 for a single volume.

    Raises:
        FormatError: SET-03, the header cannot be read.
    """
    header, _ = _open(path)
    return math.prod(geometry.shape_of(path, header)[3:])


def header(path: Path) -> tuple[Any, bool]:
    """The header as nibabel's object, and whether extensions follow it.

    Raises:
        FormatError: SET-03, the header cannot be read.
    """
    fields, packed = _open(path)
    with _stream(path, packed) as stream:
        flags = stream.read(len(fields.binaryblock) + 4)[len(fields.binaryblock) :]
    return fields, flags[:1] not in (b"", b"\0")


def grid(path: Path) -> Grid:
    """Where the voxels are, from the header alone; it warns as ``read`` does.

    Raises:
        FormatError: SET-03, the header cannot be read.
        GeometryError: GEO-05, no usable geometry.
    """
    header, _ = _open(path)
    found = geometry.grid_of(path, header)
    geometry.warn_about(path, header, found)
    return found


def read(path: Path, *, frame: int | None = None) -> Volume:
    """An image.

    Args:
        path: The file; of a pair, the header.
        frame: Which entry of the fourth axis; needed only if there are several.

    Raises:
        FormatError: SET-03, the file is cut off or broken.
        GeometryError: GEO-05, no usable geometry.
        InputError: VAL-01, NaN or infinite voxels; VAL-05, complex voxels, or several frames and none chosen.
    """
    header, data, grid = _load(path, frame)
    geometry.warn_about(path, header, grid)
    channels = _scaled(path, _channels(path, data), header, np.dtype(np.float32))
    channels = check_finite(path, channels)
    warn_if_constant(path, channels)
    return Volume(channels, grid, "UNKNOWN", Source((path,), NAME, header))


def read_numbers(path: Path) -> Volume:
    """Whole numbers that stand for something, as an image of one channel.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: LAB-01, values that are not within 0.001 of an integer, or colours; LAB-05, several volumes; VAL-04,
            values beyond 32 bits.
    """
    if (volumes := frames(path)) > 1:
        raise LabelError(
            f"{path}: a label map is one volume, but the file holds {volumes}; if each is one structure, draw them "
            "into one map, a value for each, and nest those that overlap by regions",
            code="LAB-05",
        )
    header, data, grid = _load(path, None)
    geometry.warn_about(path, header, grid)
    if data.dtype.names:
        raise LabelError(f"{path}: a label map holds one number per voxel, but this holds colours", code="LAB-01")
    exact = integers(path, _scaled(path, data, header, np.dtype(np.float64)))
    return Volume(exact[None], grid, "UNKNOWN", Source((path,), NAME, header))


def read_labels(path: Path, labels: Labels | None = None) -> LabelMap:
    """A label map, as uint8 or uint16.

    Args:
        path: The file; of a pair, the header.
        labels: Table that the values must be in; None makes one from the values found.

    Raises:
        FormatError, GeometryError, InputError: as ``read``.
        LabelError: as ``read_numbers``; LAB-02, negative values, values above 65535 or values outside the table.
    """
    return named(path, read_numbers(path), labels)


def write_labels(path: Path, label_map: LabelMap, like: Source | None = None) -> None:
    """Writes a label map; the file appears under its name only after it was read back and found equal.

    Args:
        path: Target, ``.nii`` or ``.nii.gz``; an existing file is replaced.
        label_map: What to write; its values must be in its table.
        like: Where the image came from; its geometry fields are taken over if they give the same affine.

    Raises:
        LabelError: LAB-02, values outside the table.
        OutputError: the file cannot be written, or does not read back as what was written.
    """
    label_map.labels.check(label_map.data, f"the label map for {path}")
    _write(path, compact(label_map.data), label_map.grid, _twin(like) or _twin(label_map.source))


def write_volume(path: Path, volume: Volume) -> None:
    """Writes an image of one channel, as int16 where all voxels fit, else as float32; for making data sets.

    Raises:
        InputError: VAL-01, NaN or infinite voxels.
        OutputError: there are several channels, or the file cannot be written.
    """
    if volume.channels != 1:
        raise OutputError(f"{path}: one file holds one channel, but the image has {volume.channels}; write one by one")
    data = check_finite(path, volume.data[0])
    limits = np.iinfo(np.int16)
    small = np.issubdtype(data.dtype, np.integer) and limits.min <= data.min() and data.max() <= limits.max
    _write(path, data.astype(np.int16 if small else np.float32), volume.grid, _twin(volume.source))


def _open(path: Path) -> tuple[Any, bool]:
    head = head_of(path)
    packed = head.startswith(GZIP)
    with _stream(path, packed) as stream:
        try:
            return geometry.parse(path, stream, head), packed
        except (OSError, EOFError, zlib.error) as error:
            raise _cut_off(path, str(error)) from None


def _load(path: Path, frame: int | None) -> tuple[Any, np.ndarray[Any, Any], Grid]:
    """Header, unscaled voxels (i j k, native byte order, writable) and grid of a file, without any warning."""
    header, packed = _open(path)
    shape = geometry.shape_of(path, header)
    dtype = _dtype(path, header)
    number = chosen(path, math.prod(shape[3:]), frame, hint="one file each, for channels named CASE_0000, CASE_0001, …")
    grid = geometry.grid_of(path, header)
    pair = geometry.is_pair(header)
    offset = float(header["vox_offset"])
    if not (0 if pair else len(header.binaryblock)) <= offset < np.inf:
        raise FormatError(f"{path}: voxels cannot start at byte {offset} of the file", code="SET-03")
    image = _partner(path) if pair else path
    packed = head_of(image).startswith(GZIP) if pair else packed
    data = _voxels(image, packed, int(offset), shape, number, dtype)
    return header, data.astype(dtype.newbyteorder("="), copy=False), grid


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except KeyError:
        dtype = np.dtype(np.void)
    if dtype.kind == "c":
        raise InputError(f"{path}: voxels are complex ({dtype}); write magnitude or phase to a file", code="VAL-05")
    if dtype.kind not in "iuf" and not dtype.names:
        raise FormatError(f"{path}: type {int(header['datatype'])} of voxels is not known", code="SET-03")
    return dtype


def _partner(path: Path) -> Path:
    bare = path.name.removesuffix(".gz").removesuffix(".hdr")
    for name in (f"{bare}.img", f"{bare}.img.gz"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise FormatError(
        f"{path}: {path.stat().st_size} bytes, a header whose voxels are in a file of their own, but there is no "
        f"{bare}.img or {bare}.img.gz beside it",
        code="SET-03",
    )


def _voxels(
    path: Path, packed: bool, offset: int, shape: tuple[int, ...], frame: int, dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """The voxels of one frame, i j k. The rest of the file is read, too, for the checksum at its end."""
    size = math.prod(shape[:3]) * dtype.itemsize
    wanted = offset + math.prod(shape[3:]) * size
    if path.stat().st_size * (_DEFLATE_LIMIT if packed else 1) < wanted:
        raise _cut_off(path, f"{wanted} bytes are needed for {shape} voxels of {dtype}")
    data = np.empty(size, np.uint8)
    try:
        with _stream(path, packed) as stream:
            stream.seek(offset + frame * size)
            filled = stream.readinto(data.data)
            while stream.read(_CHUNK):
                pass
            end = stream.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise _cut_off(path, str(error)) from None
    if filled < size or end < wanted:
        raise _cut_off(path, f"{end} of {wanted} bytes are there")
    return data.view(dtype).reshape(shape[:3], order="F")


def _stream(path: Path, packed: bool) -> Any:
    return gzip.open(path, "rb") if packed else path.open("rb")


def _cut_off(path: Path, why: str) -> FormatError:
    return FormatError(
        f"{path}: cut off or damaged ({path.stat().st_size} bytes on disk; {why}); fetch or export it again",
        code="SET-03",
    )


def _channels(path: Path, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if not data.dtype.names:
        return data[None]
    if data.dtype.names != ("R", "G", "B"):
        raise InputError(f"{path}: colours with transparency; write red, green and blue only", code="VAL-05")
    return np.stack([data[colour] for colour in data.dtype.names])


def _scaled(path: Path, data: np.ndarray[Any, Any], header: Any, least: np.dtype[Any]) -> np.ndarray[Any, Any]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise FormatError(f"{path}: the scaling of the voxels is broken ({error})", code="SET-03") from None
    if data.dtype.kind == "f" and data.dtype.itemsize not in (4, 8):
        data = data.astype(np.float64)
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return data
    scaled = np.empty(data.shape, np.result_type(data.dtype, least), order="F")
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(data.shape[-1]):
            scaled[..., k] = data[..., k].astype(np.float64) * slope + intercept
    return scaled


def _twin(source: Source | None) -> Any:
    return source.header if source is not None and source.format == NAME else None


def _write(path: Path, data: np.ndarray[Any, Any], grid: Grid, like: Any) -> None:
    header = geometry.header_for(path, grid, like, data.dtype)
    expected = geometry.grid_of(path, header)
    packed = path.name.endswith(".gz")

    def write(stream: BinaryIO) -> None:
        voxels = np.ascontiguousarray(data.T).data
        if not packed:
            stream.writelines((header.binaryblock, bytes(4), voxels))
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as inner:
            inner.writelines((header.binaryblock, bytes(4), voxels))

    with fresh_file(path) as beside:
        store(beside, write)
        try:
            _, found, grid_found = _load(beside, None)
        except InputError as error:
            raise OutputError(f"{path}: cannot be read back ({error}); nothing was changed") from error
        same_place = np.array_equal(grid_found.affine, expected.affine)
        if not (same_place and np.array_equal(found, data) and found.dtype == data.dtype):
            raise OutputError(f"{path}: does not read back as what was written; nothing was changed")
