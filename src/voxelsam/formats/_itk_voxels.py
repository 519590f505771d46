"""The numbers of an NRRD or MetaImage file: as many as the header says, no more and no fewer."""

import bz2
import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from voxelsam.errors import FormatError
from voxelsam.formats._itk_header import ItkHeader, Storage

_PACKED_LIMIT = {"raw": 1, "gzip": 1100, "zlib": 1100, "bzip2": 2_000_000, "text": 1}
"""No packing makes more bytes than this out of one."""

_FOREIGN_HEADER = 1 << 20
"""Bytes that may stand before voxels that are what the data ends with."""

_LINE_ENDS = (b"", b"\n", b"\r\n")
"""What text tools leave at the end of a file."""

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 16

Array = np.ndarray[Any, Any]


def load(path: Path, header: ItkHeader) -> Array:
    """All numbers, with the axes of the header, in native byte order and writable.

    Raises:
        FormatError: SET-03, there are too few or too many, or the packing is broken.
    """
    count = int(np.prod(header.sizes, dtype=np.int64))
    storage = header.storage
    least = 2 * count - 1 if storage.packing == "text" else count * header.dtype.itemsize
    size = storage.path.stat().st_size - storage.offset
    if size * _PACKED_LIMIT[storage.packing] < least:
        raise _mismatch(storage, f"{least} bytes of voxels are needed, {max(size, 0)} are there")
    try:
        with storage.path.open("rb") as stream:
            stream.seek(storage.offset)
            for _ in range(storage.lines):
                stream.readline(_LONGEST_LINE)
            if storage.packing == "text":
                numbers = _from_text(stream, storage, count, header.dtype)
            else:
                numbers = _filled(stream, storage, count * header.dtype.itemsize).view(header.dtype)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise _mismatch(storage, str(error)) from None
    except MemoryError:
        raise FormatError(f"{path}: {count} numbers of {header.dtype} do not fit into memory", code="SET-03") from None
    return numbers.astype(header.dtype.newbyteorder("="), copy=False).reshape(header.sizes, order="F")


def frame_of(data: Array, header: ItkHeader, frame: int) -> Array:
    """One frame with axes channels i j k."""
    axes = range(data.ndim)
    lead = [] if header.colours is None else [header.colours]
    other = [axis for axis in axes if axis not in header.space and axis != header.colours]
    moved = data.transpose([*lead, *header.space, *other])
    whole = moved.reshape((*moved.shape[: moved.ndim - len(other)], -1), order="F")[..., frame]
    return whole.reshape((-1 if lead else 1, *header.shape), order="F")


def _from_text(stream: BinaryIO, storage: Storage, count: int, dtype: np.dtype[Any]) -> Array:
    words = stream.read().replace(b",", b" ").split()
    if len(words) != count:
        raise _mismatch(storage, f"{count} numbers are needed, {len(words)} are there")
    numbers = np.array([float(word) if dtype.kind == "f" else int(word) for word in words])
    with np.errstate(over="ignore", invalid="ignore"):
        exact = numbers.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(exact, numbers):
        raise _mismatch(storage, f"its numbers do not fit into {dtype}")
    return exact


def _filled(stream: BinaryIO, storage: Storage, wanted: int) -> Array:
    """That many bytes."""
    if storage.packing == "zlib":
        return _inflated(stream, storage, wanted)
    if storage.packing == "raw":
        return _from_stream(stream, storage, wanted, plain=True)
    with (gzip.open if storage.packing == "gzip" else bz2.open)(stream) as source:
        return _from_stream(source, storage, wanted, plain=False)


def _from_stream(source: Any, storage: Storage, wanted: int, *, plain: bool) -> Array:
    if storage.skip < 0:
        return _checked(_end(source, wanted, plain), storage, wanted)
    source.seek(storage.skip, 1 if plain else 0)
    data = np.empty(wanted, np.uint8)
    there = 0
    while there < wanted and (more := source.readinto(data.data[there : there + _CHUNK])):
        there += more
    rest = source.read(_CHUNK)
    there += 0 if rest in _LINE_ENDS else len(rest)
    if there != wanted:
        raise _mismatch(
            storage, f"{wanted} bytes of voxels are needed, {'more' if there > wanted else there} are there"
        )
    return data


def _end(source: Any, wanted: int, plain: bool) -> bytes:
    """The last bytes of a stream."""
    if plain:
        source.seek(-wanted, 2)
        return bytes(source.read())
    content: bytes = source.read(wanted + _FOREIGN_HEADER + 1)
    if len(content) > wanted + _FOREIGN_HEADER:
        raise ValueError("too much stands before the voxels")
    return content[max(len(content) - wanted, 0) :]


def _inflated(stream: BinaryIO, storage: Storage, wanted: int) -> Array:
    inner = zlib.decompressobj(47)
    content = inner.decompress(stream.read(), wanted + 1)
    if len(content) <= wanted and not inner.eof and inner.decompress(inner.unconsumed_tail, 1):
        raise _mismatch(storage, f"{wanted} bytes of voxels are needed, more are there")
    if not inner.eof:
        raise _mismatch(storage, f"{wanted} bytes of voxels are needed, {len(content)} or more are there")
    return _checked(content, storage, wanted)


def _checked(content: bytes, storage: Storage, wanted: int) -> Array:
    if len(content) != wanted:
        raise _mismatch(storage, f"{wanted} bytes of voxels are needed, {len(content)} are there")
    return np.frombuffer(bytearray(content), np.uint8)


def _mismatch(storage: Storage, why: str) -> FormatError:
    return FormatError(
        f"{storage.path}: cut off or damaged, or its header is not its own ({storage.path.stat().st_size} bytes on "
        f"disk; {why}); fetch or export it again",
        code="SET-03",
    )
