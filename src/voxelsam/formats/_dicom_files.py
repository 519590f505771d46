"""The DICOM files of a path, be it a file, a folder or a zip archive, and their data sets.

Nothing that pydicom warns or logs leaves this module.
"""

import io
import logging
import lzma
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from voxelsam import checks
from voxelsam.errors import FormatError, MissingExtra
from voxelsam.formats._dicom_sop import LABELS, deflated_from, sop_class
from voxelsam.formats._files import HEAD, ZIP

ENDINGS = (".dcm", ".dicom", ".ima")
"""Of names of DICOM files."""

UNPACKED_LIMIT = 8 << 30
"""Bytes that an archive, or a deflated data set, may unpack to."""
PACKED_LIMIT = 100
"""How many times its own size an archive may unpack to, where that is more than ``SMALL``."""
SMALL = 256 << 20
"""Bytes that are never taken for a bomb."""

LOOK = 40
"""Files of a folder or archive that are looked at to see whether it holds DICOM."""

_UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, OverflowError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What reading a file or a member of an archive may raise."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One file, on disk or in an archive; each is itself only, because an archive may use a name twice."""

    name: str
    """For messages: the path, for a member of an archive with its name there."""
    open: Callable[[], Any] = field(repr=False)
    """Its bytes."""
    packed: bool = False
    """Whether its bytes cannot be read back and forth."""

    def head(self) -> bytes:
        """Its first bytes.

        Raises:
            FormatError: SET-03, it cannot be read.
        """
        with self._opened() as stream:
            return bytes(stream.read(HEAD))

    def dataset(self, *, pixels: bool) -> Any:
        """The data set, with or without its pixels.

        Raises:
            FormatError: SET-03, the file is damaged beyond reading.
            MissingExtra: pydicom is not installed.
        """
        pydicom = library("pydicom")
        with self._opened() as stream, quiet():
            content = io.BytesIO(stream.read()) if self.packed else stream
            _check_deflated(self.name, content)
            try:
                dataset = pydicom.dcmread(content, force=True, stop_before_pixels=not pixels)
                return _with_syntax(dataset)
            except Exception as error:
                raise FormatError(
                    f"{self.name}: cut off or damaged DICOM file ({reason(error)}); fetch or export it again",
                    code="SET-03",
                ) from None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with self.open() as stream:
                yield stream
        except _UNREADABLE as error:
            raise FormatError(
                f"{self.name}: cannot be read ({reason(error)}); fetch or export it again", code="SET-03"
            ) from None


def reason(error: BaseException) -> str:
    """What another library says is wrong, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def library(name: str, purpose: str = "reading DICOM") -> Any:
    """A module of the extra ``dicom``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra(f"{purpose} needs the extra 'dicom': pip install 'voxelsam[dicom]'") from None


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
def entries(path: Path, *, tell: bool = False) -> Iterator[tuple[Entry, ...]]:
    """The DICOM files of a path, in the order of their names; files of other kinds are left out.

    Args:
        path: A file, a folder (searched at any depth) or a zip archive; an archive is read in memory, file by file.
        tell: Notice (SET-03) which of those that are left out are named as DICOM files are.

    Raises:
        FormatError: SET-03, the archive is damaged, encrypted, or unpacks to more than is sensible.
    """
    if path.is_dir():
        yield _sifted(path, _in_folder(path), tell)
    elif _starts(path) == ZIP:
        with _opened(path) as archive:
            _check_size(path, archive)
            yield _sifted(path, _in_archive(path, archive), tell)
    else:
        yield (Entry(str(path), lambda: path.open("rb")),)


def _sifted(path: Path, found: Iterator[Entry], tell: bool) -> tuple[Entry, ...]:
    kept, others = list[Entry](), list[Entry]()
    for entry in found:
        (others if sop_class(entry.head()) is None else kept).append(entry)
    broken = [entry.name for entry in others if entry.name.lower().endswith(ENDINGS)]
    if tell and kept and broken:
        checks.notice(
            "SET-03",
            f"{path}: {len(broken)} file(s) named as DICOM hold none and are left out, the first: {broken[0]}; slices "
            "may be missing: fetch or export them again",
        )
    return tuple(kept)


def holds_images(path: Path) -> bool:
    """Whether a folder or zip archive holds a DICOM file other than labels; only its first files are looked at."""
    try:
        if path.is_dir():
            return any(_may_be_image(entry) for entry in islice(_in_folder(path), LOOK))
        with _opened(path) as archive:
            return any(_may_be_image(entry) for entry in islice(_in_archive(path, archive), LOOK))
    except FormatError:
        return False


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
            yield Entry(f"{path}: {info.filename}", _unpacker(archive, info), packed=True)


def _unpacker(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], Any]:
    return lambda: archive.open(info)


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
    start = deflated_from(head)
    if start is None:
        return
    stream.seek(start)
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
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


@cache
def _hush_gdcm() -> None:
    try:
        import gdcm
    except ImportError:
        return
    for name in ("WarningOff", "ErrorOff", "DebugOff"):
        getattr(gdcm.Trace, name)()
