"""The DICOM files of a path, be it a file, a folder or a zip archive, and their data sets.

DICOM is told by content: ``DICM`` after 128 bytes, or, where a file has no such preamble, a chain of elements that
starts with group 0002 or 0008 and names its SOP class. Nothing that pydicom warns or logs leaves this module.
"""

import io
import logging
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from voxelsam.errors import FormatError, MissingExtra
from voxelsam.formats._dicom_sop import LABEL_MAP, SEGMENTATION, STRUCTURE_SET
from voxelsam.formats._files import HEAD

MAGIC = b"DICM"
ZIP = b"PK\x03\x04"

UNPACKED_LIMIT = 8 << 30
"""Bytes that an archive, or a deflated data set, may unpack to."""
PACKED_LIMIT = 100
"""How many times its own size an archive may unpack to, where that is more than ``SMALL``."""
SMALL = 256 << 20
"""Bytes that are never taken for a bomb."""

LOOK = 40
"""Files of a folder or archive that are looked at to see whether it holds DICOM."""

_SOP_CLASS, _RECOGNITION, _SYNTAX, _MEDIA = (0x0008, 0x0016), (0x0008, 0x0010), (0x0002, 0x0010), (0x0002, 0x0002)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_SHORT = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
    b"ST", b"TM", b"UI", b"UL", b"US",
)  # fmt: skip
_IMPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"

Tag = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """One file, on disk or in an archive."""

    name: str
    """For messages: the path, for a member of an archive with its name there."""
    open: Callable[[], BinaryIO] = field(compare=False, repr=False)
    """Its bytes."""

    def head(self) -> bytes:
        """Its first bytes.

        Raises:
            FormatError: SET-03, it cannot be read.
        """
        with self._stream() as stream:
            return stream.read(HEAD)

    def _stream(self) -> BinaryIO:
        try:
            return self.open()
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise FormatError(
                f"{self.name}: cannot be read ({error}); fetch or export it again", code="SET-03"
            ) from None

    def dataset(self, *, pixels: bool) -> Any:
        """The data set, with or without its pixels.

        Raises:
            FormatError: SET-03, the file is damaged beyond reading.
            MissingExtra: pydicom is not installed.
        """
        library = pydicom()
        with self._stream() as stream, quiet():
            _check_deflated(self.name, stream)
            try:
                dataset = library.dcmread(stream, force=True, stop_before_pixels=not pixels)
                return _with_syntax(dataset)
            except Exception as error:
                raise FormatError(
                    f"{self.name}: cut off or damaged DICOM file ({reason(error)}); fetch or export it again",
                    code="SET-03",
                ) from None


def reason(error: BaseException) -> str:
    """What another library says is wrong, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def pydicom() -> Any:
    """The library.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pydicom as library
    except ImportError:
        raise MissingExtra("reading DICOM needs the extra 'dicom': pip install 'voxelsam[dicom]'") from None
    return library


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that pydicom and its decoders warn about or log is shown inside the block."""
    from pydicom.config import disable_value_validation

    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg")]
    states = [logger.propagate for logger in loggers]
    nobody = logging.NullHandler()
    try:
        for logger in loggers:
            logger.propagate = False
            logger.addHandler(nobody)
        _hush_gdcm()
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in zip(loggers, states, strict=True):
            logger.propagate = state
            logger.removeHandler(nobody)


@contextmanager
def entries(path: Path) -> Iterator[tuple[Entry, ...]]:
    """The DICOM files of a path, in the order of their names; files of other kinds are left out.

    Args:
        path: A file, a folder (searched at any depth) or a zip archive; an archive is read in memory, file by file.

    Raises:
        FormatError: SET-03, the archive is damaged, encrypted, or unpacks to more than is sensible.
    """
    if path.is_dir():
        yield tuple(entry for entry in _in_folder(path) if sop_class(entry.head()) is not None)
    elif _starts(path) == ZIP:
        with _opened(path) as archive:
            _check_size(path, archive)
            yield tuple(entry for entry in _in_archive(path, archive) if sop_class(entry.head()) is not None)
    else:
        yield (Entry(str(path), lambda: path.open("rb")),)


def holds_images(path: Path) -> bool:
    """Whether a folder or zip archive holds a DICOM file other than labels; only its first files are looked at."""
    try:
        if path.is_dir():
            return any(_may_be_image(entry) for entry in islice(_in_folder(path), LOOK))
        with _opened(path) as archive:
            return any(_may_be_image(entry) for entry in islice(_in_archive(path, archive), LOOK))
    except FormatError:
        return False


LABELS = (SEGMENTATION, LABEL_MAP, STRUCTURE_SET)
"""SOP classes of objects that say where structures are, which other modules answer for."""


def sop_class(head: bytes) -> str | None:
    """What kind of DICOM object the first bytes of a file belong to.

    Args:
        head: At least some hundred bytes.

    Returns:
        The SOP class UID; empty if it stands further behind; None if this is no DICOM file.
    """
    if head[128:132] == MAGIC:
        meta, end = _chain(head, 132, explicit=True, order="<", groups=(2,))
        if _MEDIA in meta:
            return _uid(meta[_MEDIA])
        return _uid(_body(head, end, _uid(meta.get(_SYNTAX, b""))).get(_SOP_CLASS, b""))
    if head[:2] == b"\x02\x00":
        meta, end = _chain(head, 0, explicit=True, order="<", groups=(2,))
        body = _body(head, end, _uid(meta.get(_SYNTAX, b"")))
        found = _uid(meta.get(_MEDIA, body.get(_SOP_CLASS, b"")))
        return found if len(meta) >= 2 and found.startswith("1.2.") else None
    if head[:2] not in (b"\x08\x00", b"\x00\x08"):
        return None
    for syntax in (_BIG,) if head[:2] == b"\x00\x08" else ("", _IMPLICIT):
        body = _body(head, 0, syntax)
        found = _uid(body.get(_SOP_CLASS, b""))
        if len(body) >= 3 and (found.startswith("1.2.") or body.get(_RECOGNITION, b"").startswith(b"ACR-NEMA")):
            return found
    return None


def _body(head: bytes, start: int, syntax: str) -> dict[Tag, bytes]:
    """The elements of group 0008 of a data set that are known by its first bytes."""
    if syntax == _DEFLATED:
        return {}
    order = ">" if syntax == _BIG else "<"
    explicit = head[start + 4 : start + 6] in _LONG + _SHORT and syntax != _IMPLICIT
    return _chain(head, start, explicit=explicit, order=order, groups=(8,))[0]


def _chain(
    head: bytes, start: int, *, explicit: bool, order: str, groups: tuple[int, ...]
) -> tuple[dict[Tag, bytes], int]:
    """Elements of ascending tags in these groups, and where they end."""
    found: dict[Tag, bytes] = {}
    last: Tag = (0, 0)
    while start + 12 <= len(head):
        tag: Tag = struct.unpack_from(order + "HH", head, start)
        kind = head[start + 4 : start + 6]
        if (tag <= last and found) or tag[0] not in groups:
            break
        if explicit and kind in _SHORT:
            begin, length = start + 8, struct.unpack_from(order + "H", head, start + 6)[0]
        elif explicit and kind in _LONG:
            begin, length = start + 12, struct.unpack_from(order + "I", head, start + 8)[0]
        elif not explicit:
            begin, length = start + 8, struct.unpack_from(order + "I", head, start + 4)[0]
        else:
            break
        if begin + length > len(head):
            break
        found[tag] = head[begin : begin + length]
        last, start = tag, begin + length
    return found, start


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").rstrip("\0 ")


def _may_be_image(entry: Entry) -> bool:
    try:
        found = sop_class(entry.head())
    except FormatError:
        return False
    return found is not None and found not in LABELS


def _in_folder(folder: Path) -> Iterator[Entry]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield Entry(str(path), _opener(path))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _in_archive(path: Path, archive: zipfile.ZipFile) -> Iterator[Entry]:
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        hidden = any(part.startswith((".", "__MACOSX")) for part in info.filename.split("/"))
        if not info.is_dir() and not hidden:
            yield Entry(f"{path}: {info.filename}", _unpacker(archive, info))


def _unpacker(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(archive.read(info))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: damaged zip archive ({reason(error)}); fetch it again", code="SET-03") from None
    with archive:
        yield archive


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    unpacked, packed = sum(info.file_size for info in archive.infolist()), path.stat().st_size
    if unpacked > UNPACKED_LIMIT or unpacked > max(SMALL, PACKED_LIMIT * packed):
        raise FormatError(
            f"{path}: an archive of {packed} bytes that would unpack to {unpacked} is not read (at most "
            f"{UNPACKED_LIMIT} bytes and {PACKED_LIMIT} times its size); unpack it yourself if you trust it",
            code="SET-03",
        )


def _starts(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(4)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})", code="SET-03") from None


def _check_deflated(name: str, stream: BinaryIO) -> None:
    """Refuses a deflated data set that would fill the memory."""
    head = stream.read(HEAD)
    stream.seek(0)
    meta, end = _chain(head, 132, explicit=True, order="<", groups=(2,))
    if _uid(meta.get(_SYNTAX, b"")) != _DEFLATED:
        return
    stream.seek(end)
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while chunk := inflate.unconsumed_tail or stream.read(HEAD):
            size += len(inflate.decompress(chunk, 1 << 24))
            if size > UNPACKED_LIMIT:
                raise FormatError(f"{name}: unpacks to more than {UNPACKED_LIMIT} bytes", code="SET-03")
    except zlib.error as error:
        raise FormatError(f"{name}: cut off or damaged ({error}); fetch or export it again", code="SET-03") from None
    stream.seek(0)


def _with_syntax(dataset: Any) -> Any:
    """The data set, its meta header completed by the transfer syntax that it was read with."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = pydicom().dataset.FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _hush_gdcm() -> None:
    try:
        import gdcm
    except ImportError:
        return
    for name in ("WarningOff", "ErrorOff", "DebugOff"):
        getattr(gdcm.Trace, name)()
